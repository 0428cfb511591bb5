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


if __name__ == "__main__":
    from flows.runtime import command

    command.main(curation)
