"""Curation: from documents to curated and dropped documents, each dropped one with its reason."""

from pathlib import Path

from prefect import flow

from tasks.curation import tasks
from tasks.reports import Timings


@flow(name="curation")
def curation(params: tasks.Params, data: Path = Path("data")) -> None:
    """Filter documents, drop duplicates and contaminated text, write what is kept and dropped, and report."""
    timings = Timings("curation")
    corpus = tasks.filter_documents(params, data, timings)
    tasks.deduplicate(corpus, params, timings)
    tasks.remove_repeated_passages(corpus, params, timings)
    comparison = tasks.decontaminate(corpus, params, data, timings)
    tasks.rehydrate(corpus, params, data, timings)
    masked = tasks.write_documents(corpus, params, data, timings)
    records = tasks.curate_records(comparison, params, data, timings)
    tasks.write_report(corpus, comparison, masked, records, params, data, timings)


if __name__ == "__main__":
    from flows.runtime import command

    command.main(curation)
