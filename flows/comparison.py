"""Compare runs or models item by item, each with the first: which is better, equivalent, worse or not comparable.

A name may be a folder with reports, a model folder or stage, `champion`, `candidate`, a version of promotion, an MLflow
run id, a registered model (NAME/3, NAME@champion), the name of a `dvc exp`, or a git revision. `:MODEL` after a name
chooses one of its models (HEAD~1:ppo). With --data, two versions of the data are compared instead.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.runtime import arguments, command, params, spool, tracking
from flows.versions import subjects
from tasks import comparison, pipeline_stages
from tasks.comparison import Section, Settings, Subject
from tasks.errors import BadParams
from tasks.files import write_json

NAME, DATA = "comparison", Path("data")


def compare(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare the first of `names` with each other one; write the pages. Return the result as JSON values."""
    settings = _settings(options)
    with subjects.opened(names, DATA) as runs:
        sides = [_with_model(run, runs) for run in runs]
        a, rest = runs[0], runs[1:]
        with arguments.naming_input():
            for other in rest:
                comparison.require_common_metrics(a, other)
            curves = _curves_by_run(runs)
        arguments.make_folder(options.output)
        if options.metric:
            comparison.require_metric(sides, options.metric)
        verdicts = comparison.compare(a, *rest, settings=settings)
        sections = [
            _section(sides[0], other, own, settings, options.examples)
            for other, own in zip(sides[1:], verdicts, strict=True)
        ]
        body = {
            "comparisons": [
                {
                    "a": section.a,
                    "b": section.b,
                    "verdict": section.primary.as_json(),
                    "metrics": [verdict.as_json() for verdict in section.verdicts],
                    "examples": section.examples,
                }
                for section in sections
            ]
        }
        text = comparison.markdown(sections, curves)
        _write(options.output, text, comparison.html(sections, curves), body)
    if not options.json:
        print("\n".join(comparison.headline(section) for section in sections))
        print(text)
    return body


def _curves_by_run(runs: Sequence[Subject]) -> dict[str, Any]:
    """The learning curves of each run; two models of one run have the same ones."""
    labels = dict[Path, list[str]]()
    for subject in runs:
        own = labels.setdefault(subject.folder.resolve(), [])
        own += [subject.label] if subject.label not in own else []
    return {", ".join(own): comparison.curves(folder) for folder, own in labels.items()}


def compare_data(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare two versions of the data; write the page. Return the result as JSON values."""
    if len(names) != 2:
        raise BadParams(f"--data compares two versions of the data, received {len(names)}")
    with TemporaryDirectory(prefix="athanor-data-") as copies, arguments.naming_input():
        folders = [subjects.data_of(name, DATA, Path(copies, str(index))) for index, name in enumerate(names)]
        sides = [comparison.read_data(name, folder) for name, folder in zip(names, folders, strict=True)]
        result = comparison.compare_data(sides[0], sides[1])
    arguments.make_folder(options.output)
    text = comparison.data_markdown(result)
    _write(options.output, text, None, result)
    if not options.json:
        print(text)
    return result


def send(output: Path, body: dict[str, Any]) -> None:
    """Send the pages to MLflow as artifacts of a run; they wait in the spool until they are sent."""
    verdicts = [one["verdict"] for one in body.get("comparisons", [])]
    tags = {f"verdict.{index}": f"{one['outcome']}: {one['reason']}" for index, one in enumerate(verdicts)}
    record = spool.Session().new_record(NAME, {}, tags, Path("none"))
    target = record.folder / spool.COPIED / "report"
    target.mkdir(parents=True, mode=0o700)
    for path in sorted(output.glob(f"{NAME}.*")):
        (target / path.name).write_bytes(path.read_bytes())
    record.write("finished")
    tracking.send_in_background()


def _settings(options: argparse.Namespace) -> Settings:
    loaded: Any = params.load("promotion")
    settings: Settings = loaded.settings
    if options.metric:
        settings = replace(settings, primary=(options.metric,))
    return replace(settings, margin=options.margin) if options.margin is not None else settings


def _with_model(subject: Subject, others: Sequence[Subject]) -> Subject:
    """The subject with the model that its primary metric is about: the last stage that all runs have measured."""
    if subject.model is not None:
        return subject
    measured = [{model for _, model in one.items} for one in others if one.model is None]
    shared = set.intersection(*measured) if measured else set()
    stages = [stage for stage in pipeline_stages.read_stages() if stage.name in shared and stage.is_training]
    answering = [stage for stage in stages if stage.answers_prompts] or stages
    if not answering:
        return subject
    last = max(range(len(answering)), key=lambda index: (answering[index].depth, index))
    return replace(subject, model=answering[last].name)


def _section(a: Subject, b: Subject, verdicts: Sequence[Any], settings: Settings, count: int) -> Section:
    primary = comparison.primary(a, b, settings)
    examples = comparison.examples(a, b, settings, count)
    return Section(a.label, b.label, primary, verdicts, examples)


def _write(output: Path, text: str, html: str | None, body: dict[str, Any]) -> None:
    (output / f"{NAME}.md").write_text(text, encoding="utf-8")
    if html is not None:
        (output / f"{NAME}.html").write_text(html, encoding="utf-8")
    write_json(output / f"{NAME}.json", body)


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.comparison", __doc__)
    add = parser.add_argument
    add(
        "names", metavar="NAME", nargs="+", help="two or more runs or models; the first is compared with each other one"
    )
    add("--data", dest="is_data", action="store_true", help="compare two versions of the data")
    add("--metric", help="the primary metric, such as exact_match.MODEL (default: promotion.primary in params.yaml)")
    add("--margin", type=arguments.margin, help="differences below it are equivalent (default: promotion.margin)")
    add("--examples", type=arguments.count, default=5, help="number of wins and of losses to read (default 5)")
    add("--output", type=Path, default=Path("data/reports/comparison"), help="folder for the pages")
    arguments.add_json(parser)
    options = parser.parse_args()

    def work() -> None:
        if len(options.names) < 2:
            raise BadParams("a comparison needs at least two names")
        body = compare_data(options.names, options) if options.is_data else compare(options.names, options)
        if options.json:
            print(json.dumps(body, ensure_ascii=False, indent=1))
        else:
            print(f"pages      {options.output}/{NAME}.md and .html")
        send(options.output, body)

    return command.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
