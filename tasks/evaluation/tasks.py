"""Evaluation as Prefect tasks: every metric reads the same inputs; the report, the page and the gates follow."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, create_model

from tasks import catalog
from tasks.errors import BadInput, GateFailed
from tasks.evaluation import gates, items, score_gates
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.gates import Gates
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, SamplingParams
from tasks.files import MANIFEST, read_json, sha256
from tasks.pipeline_stages import PipelineStage
from tasks.reports import Report, Timings

METRICS = "tasks.evaluation.metrics"
NOT_BY_DEFAULT = {"speed"}  # its numbers differ from run to run, but the same run twice must give the same report
# A name is a part of keys of MLflow, of names of gates (which have dots) and of file names.
BenchmarkName = Annotated[str, StringConstraints(pattern=r"^\w[\w -]{0,59}$")]


def _metrics_model() -> Any:
    """A model with one optional field per file of metrics/.

    An empty paragraph in params.yaml takes the defaults of a metric; a metric without a paragraph is not measured.
    """
    fields: dict[str, Any] = {}
    for name in catalog.names(METRICS):
        params: Any = catalog.find(METRICS, name).Params
        empty_as_defaults = BeforeValidator(lambda value: {} if value is None else value)
        summary = (params.__doc__ or "").partition("\n")[0]
        fields[name] = (Annotated[params | None, empty_as_defaults], Field(None, description=summary))
    return create_model("Metrics", __config__={"frozen": True, "extra": "forbid"}, **fields)


if TYPE_CHECKING:
    Metrics = BaseModel
else:
    Metrics = _metrics_model()


class Params(SamplingParams, frozen=True):
    """The metrics, the size of the samples that they read, and the gates."""

    metrics: Metrics = Field(
        default_factory=lambda: Metrics.model_validate(dict.fromkeys(set(catalog.names(METRICS)) - NOT_BY_DEFAULT)),
        description="The metrics to measure, each with its params. Without this key, all metrics but speed "
        "are measured.",
    )
    benchmarks: dict[BenchmarkName, BenchmarkSet] = Field(
        default_factory=dict,
        description="Test sets of your own: name -> where its rows are, what its fields mean, and how it is scored.",
    )
    champion_report: Path | None = Field(
        None,
        description="evaluation.json of the model that is in use, for gates that compare with it; null: none. That of "
        "the champion is data/models/champion/../reports/evaluation.json, also while there is no champion yet.",
    )
    gates: Gates = Field(default_factory=Gates, description="Conditions that the scores must meet.")

    def active_metrics(self) -> Iterator[tuple[str, BaseModel]]:
        """Name and params of each metric to measure."""
        for name in catalog.names(METRICS):
            if (params := getattr(self.metrics, name)) is not None:
                yield name, params

    def score_names(self, models: Sequence[str]) -> dict[str, list[str]]:
        """Metric or benchmarks.<test set> -> the names of its scores, each model named; `*` stands for any keys."""
        names: dict[str, Sequence[str]] = {
            name: catalog.find(METRICS, name).SCORES for name, _ in self.active_metrics()
        }
        names |= {f"benchmarks.{name}": own.score_names(name) for name, own in self.benchmarks.items()}
        return {name: score_gates.expand(own, models) for name, own in names.items()}

    def unknown_scores(self, patterns: Iterable[str], models: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield each of `patterns`, such as the keys of gates, that no score can have, and what is wrong with it."""
        names = [name for own in self.score_names(models or ["*"]).values() for name in own]
        for pattern in patterns:
            if not score_gates.may_match(pattern, names):
                yield (
                    pattern,
                    f"no metric or test set that is measured has this score; {catalog.suggest(pattern, names)}",
                )


@task(cache_policy=NO_CACHE)
def open_inputs(params: Params, data: Path, stages: Sequence[PipelineStage]) -> EvaluationInputs:
    """Open the test data and models below `data`. Raises BadInput if training may have used the test data."""
    from tasks.evaluation import leakage

    leakage.refuse_leakage(data)
    policies = params.policies or tuple(stage.name for stage in stages if stage.answers_prompts)
    return EvaluationInputs(data, params.model_copy(update={"policies": policies}))


@task(cache_policy=NO_CACHE)
def load_benchmarks(params: Params) -> dict[str, Any]:
    """Read the examples of all test sets before anything is measured. Raises BadInput."""
    loaded, problems = read_benchmarks(params)
    if problems:
        raise BadInput("\n".join(f"evaluation.benchmarks.{name}: {text}" for name, text in problems.items()))
    return loaded


def read_benchmarks(params: Params) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the examples of each test set that can be read, and for each other one what is wrong with it."""
    from tasks.evaluation.benchmarks import examples

    loaded, problems = dict[str, Any](), dict[str, str]()
    for name, own in params.benchmarks.items():
        try:
            loaded[name] = examples.load(own)
        except BadInput as error:
            problems[name] = str(error)
    return loaded, problems


def digests_of_benchmarks(params: Params) -> dict[str, dict[str, str]]:
    """The sha256 of the files of each test set, those of its solved examples included."""
    from tasks.evaluation.benchmarks.rows import digests

    result = {}
    for name, own in params.benchmarks.items():
        shots = own.few_shot.rows if own.few_shot else None
        result[name] = {**digests(own), **(digests(shots) if shots else {})}
    return result


@task(cache_policy=NO_CACHE, task_run_name="benchmark {name}")
def measure_benchmark(
    name: str, params: Params, inputs: EvaluationInputs, loaded: Any, timings: Timings
) -> MetricResult:
    """Measure one test set. If no model can be measured on it, the result says so."""
    from tasks.evaluation.benchmarks import measuring

    with timings.measure(f"benchmarks.{name}"):
        try:
            return measuring.measure(name, params.benchmarks[name], inputs, loaded)
        except NotMeasured as reason:
            return MetricResult(not_measured=str(reason))


@task(cache_policy=NO_CACHE, task_run_name="{name}")
def measure(name: str, params: BaseModel, inputs: EvaluationInputs, timings: Timings) -> MetricResult:
    """Measure one metric. If the data or the models that it needs do not exist, the result says so."""
    with timings.measure(name):
        try:
            result: MetricResult = catalog.find(METRICS, name).measure(inputs, params)
        except NotMeasured as reason:
            result = MetricResult(not_measured=str(reason))
    return result


@task(cache_policy=NO_CACHE)
def write_report(
    results: list[MetricResult],
    inputs: EvaluationInputs,
    params: Params,
    data: Path,
    stages: Sequence[PipelineStage],
    timings: Timings,
    champion: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write the report and the page. Returns one sentence for each gate that failed."""
    from tasks.evaluation import page

    report = Report("evaluation")
    for result in results:
        for name, score in result.scores.items():
            # The benchmarks are one mapping in the report, to which each of them adds its own scores.
            report.scores[name] = report.scores.get(name, {}) | score if name == "benchmarks" else score
        report.tables |= result.tables
        report.figures |= result.figures
        report.notes += result.notes
    names = [*(name for name, _ in params.active_metrics()), *(f"benchmarks.{name}" for name in params.benchmarks)]
    unmeasured = {name: result.not_measured for name, result in zip(names, results, strict=True) if result.not_measured}
    outcome = _check_gates(report.scores, params, inputs, stages, unmeasured, champion)
    report.notes = [
        *(f"GATE FAILED: {sentence}" for sentence in outcome.failed),
        *report.notes,
        *(f"gate that does not apply: {sentence}" for sentence in outcome.not_applicable),
        *_notes_on_unmeasured(unmeasured),
    ]
    report.notes += [f"left out: {note}" for note in inputs.left_out_notes]
    report.notes += inputs.self_check_notes
    report.scores |= {
        "gates_checked": outcome.num_checked,
        "gates_failed": len(outcome.failed),
        "gates_not_applicable": len(outcome.not_applicable),
    }
    report.summary = (
        f"evaluation measured {len(names) - len(unmeasured)} of {len(names)} metrics; "
        f"{outcome.num_checked} gates checked, {len(outcome.failed)} failed, "
        f"{len(outcome.not_applicable)} do not apply; see data/reports/evaluation/report.html"
    )
    report.scores["measured"] = measured_bytes(data, stages)
    report.highlights = ("gates_checked", "gates_failed", "gates_not_applicable")
    with timings.measure("report"):
        report.write(data / "reports")
        for name, result in zip(names, results, strict=True):
            items.write(data / "reports" / "evaluation" / items.FOLDER / name, result.items)
        page.write(data / "reports", data / "reports" / "evaluation" / "report.html", stages, params.reference)
    timings.write()
    return outcome.failed


def measured_bytes(data: Path, stages: Sequence[PipelineStage]) -> dict[str, Any]:
    """Which models (sha256 of their manifests) and test data (digests) the scores are about.

    contamination: what makes the scores untrustworthy; "" here, because `open_inputs` refuses contaminated test data.
    """
    manifests = {stage.name: data / "models" / stage.name / MANIFEST for stage in stages if stage.is_training}
    test_sets = dict(read_json(data / "tokens" / MANIFEST).get("test", {}).get("sets", {}))
    return {
        "models": {name: sha256(path) for name, path in manifests.items() if path.is_file()},
        "test": {name: str(test_set.get("digest", "")) for name, test_set in test_sets.items()},
        "contamination": "",
    }


def _check_gates(
    scores: Mapping[str, Any], params: Params, inputs: EvaluationInputs, stages: Sequence[PipelineStage],
    unmeasured: Mapping[str, str], champion: Mapping[str, Any] | None,
) -> gates.Outcome:  # fmt: skip
    """Compare the scores with the gates. Scores of stages that were left out could not be measured either."""
    models = [stage.name for stage in stages if stage.is_training]
    names, of_no_model = params.score_names(models), params.score_names([])
    left_out = {name: reason for name in models if (reason := inputs.left_out(name))}
    for model in left_out:
        names[model] = [
            name for key, own in params.score_names([model]).items() for name in own if name not in of_no_model[key]
        ]
    return gates.check(scores, params.gates, params.reference, {**unmeasured, **left_out}, champion, names)


@task(cache_policy=NO_CACHE)
def read_champion(params: Params) -> dict[str, Any] | None:
    """The report of the champion, if there is one, before anything is measured. Raises BadInput for a missing file."""
    from tasks import reports

    path = params.champion_report
    if path is None:
        return None
    if not path.is_file():
        if any(parent.name == "champion" and not parent.exists() for parent in path.parents):
            return None  # no model was promoted yet
        raise BadInput(f"there is no {path}. Name the evaluation.json of the model in use, or remove the key.")
    return reports.read(path)


def _notes_on_unmeasured(unmeasured: Mapping[str, str]) -> Iterator[str]:
    """Yield one note for each reason, with the metrics that it concerns."""
    for reason in dict.fromkeys(unmeasured.values()):
        metrics = ", ".join(name for name, why in unmeasured.items() if why == reason)
        yield f"not measured: {metrics}, because {reason}"


@task(cache_policy=NO_CACHE)
def enforce(failed_gates: list[str], data: Path) -> None:
    """Raise GateFailed if a gate failed. All files are written by then."""
    if failed_gates:
        sentences = "".join(f"\n  {sentence}" for sentence in failed_gates)
        raise GateFailed(
            f"evaluation is complete, but {len(failed_gates)} of the gates in params.yaml (evaluation.gates) "
            f"failed:{sentences}\nThe full report is {data / 'reports' / 'evaluation' / 'report.html'}"
        )


def score_files(
    metrics: Sequence[str], hypotheses: Sequence[Path], references: Sequence[Path], tokenizer: str | None = None
) -> Any:
    """Score the texts that other systems wrote (outputs.py). Raises BadInput or BadParams."""
    from tasks.evaluation import outputs

    return outputs.score_files(metrics, hypotheses, references, tokenizer)
