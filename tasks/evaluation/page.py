"""report.html: the whole journey on one page that needs neither network nor script, from the reports on disk."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.evaluation import charts
from tasks.files import read_json

TEMPLATE = "report.html"
MODELS = ("pretrain", "sft", "ppo", "dpo")
MAX_FIGURES = 6
DULL = ("gradient_norm",)  # curves that are shown where there is room
RATE = "learning_rate"  # the schedule, which is always shown

STAGES = {  # in the order of the journey, and what each does
    "ingestion": "Everything that is read, as it came, in one shape. What cannot be read is set aside with its reason.",
    "curation": "What training may see. Whatever is dropped has a reason and can be visited.",
    "tokenization": "Text becomes numbers: a vocabulary of this corpus, documents packed, conversations masked.",
    "pretrain": "A model of the documents: it learns to foresee the next token.",
    "sft": "From the pretrained model: it learns to answer, from conversations.",
    "reward": "From sft: it learns which of two answers people prefer.",
    "ppo": "From sft: it learns to please the reward model without going far from sft.",
    "dpo": "From sft: it learns the same preferences without a reward model.",
}

Score = Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """One stop of the journey as the page shows it."""

    name: str
    says: str
    numbers: list[tuple[str, Any]] = field(default_factory=list)  # flat name -> number or score
    notes: list[str] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)  # title, SVG


def write(reports: Path, path: Path) -> None:
    """Write the page to `path` from <reports>/<stage>.json and <reports>/<stage>/*.csv."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    room = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    room.filters |= {"number": charts.number, "score": is_score, "words": words}
    room.globals["intervals"] = lambda *args: Markup(charts.intervals(*args))
    body = read_json(reports / "evaluation.json")
    page = room.get_template(TEMPLATE).render(
        result=body,
        stages=[stage(reports, name, says) for name, says in STAGES.items() if (reports / f"{name}.json").is_file()],
        groups=list(comparisons(body)),
        curves=[(title, Markup(chart)) for title, chart in curves(reports / "evaluation" / "over_optimization.csv")],
        samples=read_rows(reports / "evaluation" / "samples.csv"),
        all_numbers=list(flat(body)),
        Markup=Markup,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def stage(reports: Path, name: str, says: str) -> Stage:
    """What the report of one stage says."""
    body = read_json(reports / f"{name}.json")
    notes = [str(note) for note in body.get("notes", [])]
    rows = read_rows(reports / name / "steps.csv")
    curves = sorted(columns(rows), key=lambda named: named[0] in DULL)
    rate = [curve for curve in curves if curve[0] == RATE]
    shown = [curve for curve in curves if curve[0] != RATE][: MAX_FIGURES - len(rate)] + rate
    figures = [(words(column), charts.line(points)) for column, points in shown]
    numbers = sorted(flat(body), key=lambda named: len(words(named[0]).split()))  # the plainest first
    return Stage(name, says, numbers, notes, figures)


def flat(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and score below `body` with its dotted name; notes and words are left out."""
    for name, value in body.items():
        here = f"{prefix}{name}"
        if is_score(value) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield here.removeprefix("counts."), value
        elif isinstance(value, Mapping):
            yield from flat(value, f"{here}.")


def is_score(value: Any) -> bool:
    """Whether a JSON value is a number with its interval."""
    return isinstance(value, Mapping) and set(value) == {"value", "low", "high", "n"}


def comparisons(body: Mapping[str, Any]) -> Iterator[tuple[str, str, list[tuple[str, Score]], float | None, str]]:
    """What is compared by model: title, what it means, (model, score), a mark and its label."""
    chance = body.get("multiple_choice", {}).get("chance")
    wanted: list[tuple[str, str, Any, float | None, str]] = [
        ("Perplexity", "of held-out documents; what knows less is beside it", _perplexities(body), None, ""),
        ("Exact match", "share of held-out numbers translated without a fault", body.get("exact_match"), None, ""),
        ("Gold reward", "right and in the house style; no policy is trained on it", body.get("gold"), None, ""),
        ("KL to sft", "nats per answer: how far a policy has gone", body.get("kl"), None, ""),
        ("Reward model's score", "what ppo is trained to raise", body.get("reward_score"), None, ""),
    ]
    for kind, scores in body.get("multiple_choice", {}).items():
        if kind != "chance":
            wanted.append((f"Multiple choice, {kind}", "the right one of four is likeliest", scores, chance, "chance"))
    for name, title in (("bleu", "BLEU"), ("chrf", "chrF")):
        for direction in sorted({key for scores in body.get(name, {}).values() for key in scores}):
            of = {model: scores[direction] for model, scores in body[name].items()}
            wanted.append((f"{title}, {direction}", "overlap with the right translation, 0 to 100", of, None, ""))
    for title, says, scores, mark, label in wanted:
        if scores:
            order = sorted(scores, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))
            yield title, says, [(name, scores[name]) for name in order], mark, label


def _perplexities(body: Mapping[str, Any]) -> dict[str, Score]:
    names = {"pretrain": "perplexity", "bigram": "bigram_perplexity", "unigram": "unigram_perplexity"}
    return {model: body[key] for model, key in names.items() if key in body}


def curves(path: Path) -> list[tuple[str, str]]:
    """Score, gold and KL by step, as charts with their titles."""
    titles = {"score": "reward model's score", "gold": "gold reward", "kl": "KL to sft, nats per answer"}
    found = dict(columns(read_rows(path)))
    return [(title, charts.line(found[name])) for name, title in titles.items() if name in found]


def columns(rows: list[dict[str, str]]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The numeric columns of a step log as points (step, value); those that never change are left out."""
    for name in rows[0] if rows else ():
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get("step") and _is_number(row[name])]
        if name != "step" and len({value for _, value in points}) > 1:
            yield name, points


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ").replace(".", " · ")


def _is_number(text: str | None) -> bool:
    try:
        value = float(text or "")
    except ValueError:
        return False
    return value - value == 0  # neither infinite nor NaN
