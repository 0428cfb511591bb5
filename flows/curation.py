"""Curation: documents -> curated and dropped, each dropped one with its reason."""

from pathlib import Path

from prefect import flow

from tasks.curation import tasks
from tasks.reports import Timings


@flow(name="curation")
def curation(params: tasks.Params, data: Path = Path("data")) -> None:
    """Measure every document, ask the filters, drop duplicates, write what is left, report."""
    timings = Timings("curation")
    corpus = tasks.judge(params, data, timings)
    tasks.deduplicate(corpus, params, timings)
    tasks.cut_repeats(corpus, params, timings)
    held_out = tasks.decontaminate(corpus, params, data, timings)
    tasks.rehydrate(corpus, params, data, timings)
    masked = tasks.write(corpus, held_out, params, data, timings)
    records = tasks.curate_records(held_out, params, data, timings)
    tasks.report(corpus, held_out, masked, records, data, timings)


def explain(name: str, data: Path = Path("data")) -> None:
    """Print one document's signals, what every filter says of them, and what became of it."""
    from flows.runtime import params

    tasks.explain(name, tasks.Params.model_validate(params.load("curation").model_dump()), data)


if __name__ == "__main__":
    import sys

    from flows.runtime import command

    if sys.argv[1:2] == ["--explain"] and len(sys.argv) == 3:
        sys.exit(command.guarded(lambda: explain(sys.argv[2])))
    command.main("curation")
