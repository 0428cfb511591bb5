"""Ingestion: sources -> documents, conversations, preferences, and quarantined records."""

from pathlib import Path

from prefect import flow

from tasks.ingestion import tasks
from tasks.reports import Timings


@flow(name="ingestion")
def ingestion(params: tasks.Params, data: Path = Path("data")) -> None:
    """Read every source of params.yaml into the tables under `data`, then report."""
    timings = Timings("ingestion")
    with tasks.open_tables(params, data) as writer:
        for name, source in params.sources.items():
            tasks.ingest(name, source, writer, timings)
    tasks.report(writer, params, data, timings)


if __name__ == "__main__":
    from flows.runtime import command

    command.main(ingestion)
