"""report.html: the results of all stages on one page, which needs neither a network nor scripts.

The page shows only what the reports on disk contain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.evaluation import funnel, score_table
from tasks.evaluation.score_gates import is_lower_better
from tasks.evaluation.score_table import flat_numbers, is_score
from tasks.pages import charts, style
from tasks.pipeline_stages import PipelineStage
from tasks.reports import main_score, read_csv
from tasks.reports import read as read_report

TEMPLATE = "report.html"
EVALUATION = "evaluation"  # the stage that writes the page; its own results fill the upper half
MAX_SET_CHARTS = 2  # of each test set of your own
MAX_FIGURES = 6  # per stage
LAST_CURVES = ("gradient_norm",)  # curves that are shown only if fewer than MAX_FIGURES other_curves exist
LEARNING_RATE = "learning_rate"  # the schedule is always shown
VALIDATION = "validation_"  # a curve of this prefix is drawn into the chart of the same curve in training
LOWER, HIGHER = "Lower is better.", "Higher is better."

DESCRIPTIONS = {  # by kind of stage
    "ingestion": "All sources are read into one schema. Records that cannot be read are quarantined with a reason.",
    "curation": "Documents are filtered and deduplicated. Every dropped document is stored with its reason.",
    "tokenization": "A tokenizer is trained on the corpus; documents, conversations and preferences become token ids.",
    "pretrain": "A language model is trained on the documents.",
    "sft": "The base model is fine-tuned on conversations; only the messages of the assistant are learned.",
    "reward": "A reward model learns from preferences which of two answers is better.",
    "ppo": "The policy is trained by reinforcement learning to get a higher score from the reward model.",
    "dpo": "The policy is trained on the preferences directly, without a reward model.",
}

ScoreBody = Mapping[str, float]  # a tasks.reports.Score as JSON


@dataclass(frozen=True)
class StageSection:
    """What the page shows of one stage."""

    name: str
    description: str
    numbers: list[tuple[str, Any]] = field(default_factory=list)  # flat name -> number or score
    notes: list[str] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)  # title, SVG


@dataclass(frozen=True)
class Comparison:
    """One chart that compares models. `mark` is a value to compare them with, such as chance."""

    title: str
    description: str
    rows: list[tuple[str, ScoreBody]]  # model, score
    mark: float | None = None
    mark_label: str = ""

    @property
    def is_uniform(self) -> bool:
        """Whether all models have the same score, so that a sentence says more than a chart."""
        return len(self.rows) > 1 and len({score["value"] for _, score in self.rows}) == 1


@dataclass(frozen=True)
class Verdict:
    """What promotion has decided about the model of this run. rows: its scores beside those of the champion."""

    sentence: str
    is_good: bool
    champion: str = ""
    rows: Sequence[tuple[str, float, float, str, str]] = ()  # metric, model, champion, outcome, reason


def write(
    reports: Path,
    path: Path,
    stages: Sequence[PipelineStage],
    reference: str = "sft",
    verdict: Verdict | None = None,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write the page to `path` from <reports>/<stage>.json and <reports>/<stage>/*.csv.

    `stages` are those of dvc.yaml in order; `reference` is the model that the policies are compared with. verdict,
    origin: what is known after the run only (run, commit ...); the page of the stage evaluation has neither.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    # StrictUndefined makes a misspelled name an error instead of an empty place on the page.
    template_env = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    template_env.filters |= {"number": charts.format_number, "score": is_score, "words": words}
    template_env.globals["interval_chart"] = lambda *args: Markup(charts.interval_chart(*args))
    body = read_report(reports / f"{EVALUATION}.json")
    curves = reward_curves(reports / EVALUATION / "over_optimization.csv", reference)
    html = template_env.get_template(TEMPLATE).render(
        result=body,
        reference=reference,
        sections=[stage_section(reports, stage) for stage in stages if _has_section(reports, stage)],
        own_sets=list(own_sets(body, _by_depth(stages))),
        assistant=assistant_scores(body, _by_depth(stages)),
        wrong_answers=read_csv(reports / EVALUATION / "wrong_answers.csv"),
        comparisons=list(comparisons(body, [stage.name for stage in stages], reference)),
        curves=[(title, Markup(chart)) for title, chart in curves],
        samples=read_csv(reports / EVALUATION / "samples.csv"),
        scores=score_rows(body, stages, reference, verdict),
        funnel=funnel.read(reports),
        verdict=verdict,
        origin=dict(origin or {}) | dict(measured(body)),
        Markup=Markup,
        style=Markup(style()),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def score_rows(
    body: Mapping[str, Any], stages: Sequence[PipelineStage], reference: str, verdict: Verdict | None = None
) -> list[score_table.Row]:
    """The scores of a report with their baselines and, if there is a verdict, those of the champion."""
    beside_champion = verdict.rows if verdict else ()
    champion = {metric: (score, outcome) for metric, _, score, outcome, _ in beside_champion}
    return score_table.rows(body, _by_depth(stages), reference, champion)


def _by_depth(stages: Sequence[PipelineStage]) -> list[str]:
    """Names of stages; the last model is the one that the chat takes: of the longest chain of stages."""
    return [stage.name for stage in sorted(stages, key=lambda stage: stage.depth)]


def measured(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the scores are about: the models and the test data, by the first digits of their hashes."""
    about = body.get("measured", {})
    for name, digests in (("models", about.get("models", {})), ("test data", about.get("test", {}))):
        if digests:
            yield name, ", ".join(f"{key} {str(digest)[:12]}" for key, digest in digests.items())


def _has_section(reports: Path, stage: PipelineStage) -> bool:
    return stage.name != EVALUATION and (reports / f"{stage.name}.json").is_file()


def stage_section(reports: Path, stage: PipelineStage) -> StageSection:
    """The section of one stage, from its report and its step log."""
    body = read_report(reports / f"{stage.name}.json")
    notes = [str(note) for note in body.get("notes", [])]
    rows = read_csv(reports / stage.name / "steps.csv")
    curves = dict(sorted(numeric_columns(rows), key=lambda curve: curve[0] in LAST_CURVES))
    in_charts = {name: curves.pop(VALIDATION + name, None) for name in list(curves) if VALIDATION + name in curves}
    schedule = [name for name in curves if name == LEARNING_RATE]
    shown = [name for name in curves if name != LEARNING_RATE][: MAX_FIGURES - len(schedule)] + schedule
    figures = []
    for name in shown:
        validation = in_charts.get(name)
        lines = {words(name): curves[name]} | ({"validation": validation} if validation else {})
        direction = " (lower is better)" if name == "loss" else ""
        figures.append((words(name) + direction, charts.line_chart(lines)))
    numbers = sorted(flat_numbers(body), key=lambda item: len(words(item[0]).split()))  # short names are totals
    return StageSection(
        stage.name, DESCRIPTIONS.get(stage.kind, f"Stage of kind {stage.kind}."), numbers, notes, figures
    )


@dataclass(frozen=True)
class AssistantScores:
    """What the model of the last stage can do: charts by group with the weakest score first."""

    model: str
    weakest: tuple[str, ScoreBody]
    strongest: tuple[str, ScoreBody]
    charts: list[tuple[str, list[tuple[str, ScoreBody]]]]  # title, (name of a group, score)


def assistant_scores(body: Mapping[str, Any], order: Sequence[str]) -> AssistantScores | None:
    """The scores of the metric `skills` for the last model of `order` that it measured; None if it measured none."""
    by_model = body.get("exact_match_by_skill", {})
    models = [name for name in order if name in by_model]
    if not models:
        return None
    model = models[-1]
    groups = {
        name.removeprefix("exact_match_by_"): body[name].get(model, {}) for name in body if "exact_match_by_" in name
    }
    charts_by_group = [
        (f"Exact match by {words(group)}", sorted(scores.items(), key=lambda item: item[1]["value"]))
        for group, scores in groups.items()
        if len(scores) > 1
    ]
    refusals = [(words(key), body[key][model]) for key in ("refused", "wrongly_refused") if model in body.get(key, {})]
    if refusals:
        charts_by_group.append(("Unanswerable questions refused; others wrongly refused", refusals))
    skills = sorted(by_model[model].items(), key=lambda item: item[1]["value"])
    return AssistantScores(model, skills[0], skills[-1], charts_by_group)


def own_sets(body: Mapping[str, Any], order: Sequence[str]) -> Iterator[tuple[str, ScoreBody, str]]:
    """Title, main score of the last model of `order`, and description of each test set of the user."""
    for name, scores in body.get("benchmarks", {}).items():
        main = main_score(scores)
        models = [model for model in order if main and model in scores[main]]
        if main and models:
            score = scores[main][models[-1]]
            baseline = ""
            if score.get("baseline") is not None:
                baseline = f"; {charts.format_number(score['baseline'])} for {score['baseline_name']}"
            yield f"{name}: {words(main)} of {models[-1]}", score, f"{_size(scores['about'])}{baseline}"


def _size(about: Mapping[str, Any]) -> str:
    """The number of items of a test set, and how many `max_items` leaves out."""
    items, unused = about["items"], about.get("items_not_used", 0)
    if unused:
        return f"{items:,} of {items + unused:,} items"
    return f"{items:,} item{'s' if items != 1 else ''}"


def comparisons(body: Mapping[str, Any], order: Sequence[str], reference: str) -> Iterator[Comparison]:
    """The charts that compare models; `order` lists the models from left to right of the pipeline."""
    for title, description, by_model, mark, mark_label in _comparison_data(body, reference):
        if by_model:
            names = sorted(by_model, key=lambda name: order.index(name) if name in order else len(order))
            yield Comparison(title, description, [(name, by_model[name]) for name in names], mark, mark_label)


def _comparison_data(
    body: Mapping[str, Any], reference: str
) -> Iterator[tuple[str, str, Mapping[str, ScoreBody] | None, float | None, str]]:
    """Title, description, model -> score, mark and its label of each chart; models may be missing."""
    yield "Perplexity", f"Of the test documents, with two baselines. {LOWER}", _perplexities(body), None, ""
    yield "Exact match", f"Share of prompts with the right greedy answer. {HIGHER}", body.get("exact_match"), None, ""
    yield (
        "Gold reward", "1 for a right answer in the house style, 0.5 for a right one, 0 for a wrong one. No model is "
        f"trained on it. {HIGHER}", body.get("gold"), None, "",
    )  # fmt: skip
    yield f"KL from {reference}", "How far training has moved a model, in nats per answer.", body.get("kl"), None, ""
    yield "Reward model's score", "The mean score, which PPO maximizes.", body.get("reward_score"), None, ""
    by_kind = body.get("multiple_choice", {})
    for kind, by_model in by_kind.items():
        if kind != "chance":
            description = f"Share of questions whose right option has the highest likelihood. {HIGHER}"
            yield f"Multiple choice: {kind}", description, by_model, by_kind.get("chance"), "chance"
    for name, scores in body.get("benchmarks", {}).items():
        for score_name in [key for key in scores if key not in ("about", "accuracy_by_group", "ended")][
            :MAX_SET_CHARTS
        ]:
            of_score = scores[score_name]
            mark = next((one.get("baseline") for one in of_score.values()), None)
            label = next((one.get("baseline_name", "") for one in of_score.values()), "")
            direction = LOWER if is_lower_better(score_name) else HIGHER
            description = f"Test set of your own, {_size(scores['about'])}. {direction}"
            yield f"{name}: {words(score_name)}", description, of_score, mark, label
    for metric, title in (("bleu", "BLEU"), ("chrf", "chrF")):
        by_model_and_direction = body.get(metric, {})
        for direction in sorted({key for scores in by_model_and_direction.values() for key in scores}):
            by_model = {model: scores[direction] for model, scores in by_model_and_direction.items()}
            yield f"{title}, {direction}", f"Overlap with the right answer, from 0 to 100. {HIGHER}", by_model, None, ""


def _perplexities(body: Mapping[str, Any]) -> dict[str, ScoreBody]:
    names = {"pretrain": "perplexity", "bigram": "bigram_perplexity", "unigram": "unigram_perplexity"}
    return {model: body[key] for model, key in names.items() if key in body}


def reward_curves(path: Path, reference: str) -> list[tuple[str, str]]:
    """The reward model's score, gold reward and KL by training step, as (title, chart)."""
    titles = {"score": "Reward model's score", "gold": "Gold reward", "kl": f"KL from {reference}, nats per answer"}
    curves = dict(numeric_columns(read_csv(path)))
    return [(title, charts.line_chart({title: curves[name]})) for name, title in titles.items() if name in curves]


def numeric_columns(rows: list[dict[str, str]]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The numeric columns of a step log as points (step, value); columns that never change are left out."""
    for name in rows[0] if rows else ():
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get("step") and _is_number(row[name])]
        if name != "step" and len({value for _, value in points}) > 1:
            yield name, points


def words(name: str) -> str:
    """A key as words: "gold_gain.ppo" becomes "gold gain · ppo"."""
    return name.removeprefix(score_table.OWN_SETS).replace("_", " ").replace(".", " · ")


def _is_number(text: str | None) -> bool:
    try:
        value = float(text or "")
    except ValueError:
        return False
    return value - value == 0  # False for infinity and NaN
