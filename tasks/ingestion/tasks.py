"""Ingestion as Prefect tasks: write the records of each source into the tables, then the report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field, SerializeAsAny, field_validator, model_serializer, model_validator

from tasks import catalog, kept_shares
from tasks.errors import BadInput, NothingLeft
from tasks.ingestion import opening, reporting, splits
from tasks.ingestion import preview as previewing
from tasks.ingestion.division import file_stage
from tasks.ingestion.labels import pair_labeled_answers
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.record_writer import RECORD_KINDS, RecordWriter
from tasks.ingestion.removal import removals
from tasks.progress import Progress
from tasks.reports import Timings

SOURCES = "tasks.ingestion.sources"
RUN = Path(".run")


class Source(BaseModel, frozen=True):
    """One entry under ingestion.sources: the name of the plug-in that reads it, and the Params of that plug-in."""

    source: str = Field(description="A file name in tasks/ingestion/sources/; by default the name of the entry.")
    params: SerializeAsAny[BaseModel] = Field(description="The Params of that file.")

    @model_validator(mode="before")
    @classmethod
    def _split_source_and_params(cls, entry: Any) -> Any:
        """{source: csv, paths: ...}, as in params.yaml -> the name of the source, and its own Params."""
        if not isinstance(entry, Mapping) or "params" in entry:
            return entry
        values = dict(entry)
        model: type[BaseModel] = catalog.find(SOURCES, str(values.pop("source"))).Params
        for key in values:
            if key not in model.model_fields:
                raise ValueError(f"unknown key {key!r}; {catalog.suggest(str(key), model.model_fields)}")
        return {"source": entry["source"], "params": model(**values)}

    @model_serializer
    def to_entry(self) -> dict[str, Any]:
        """Return the entry as it is written in params.yaml."""
        return {"source": self.source, **self.params.model_dump()}


class Params(kept_shares.KeptShareParams, frozen=True, extra="forbid"):
    """The sources by name, and how their records are split by group (a package, a number, a file ...)."""

    seed: int = Field(0, ge=0, description="Seed of the hash that assigns groups to splits.")
    validation_share: float = Field(
        0.05, ge=0, lt=0.5, description="Share of the groups in the split that training measures its progress on."
    )
    test_share: float = Field(
        0.05, ge=0, lt=0.5, description="Share of the groups in the split that only evaluation reads."
    )
    sources: dict[str, Source] = Field(
        min_length=1, description="Source name -> its settings; `source` names the plug-in if it differs from the name."
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _default_source(cls, entries: Any) -> Any:
        """An entry without `source` is read by the plug-in that has the name of the entry."""
        if not isinstance(entries, Mapping):
            return entries
        return {
            name: {"source": str(name), **(entry or {})} if isinstance(entry, Mapping | None) else entry
            for name, entry in entries.items()
        }


def missing_files(params: Params) -> Iterator[tuple[str, str]]:
    """Yield the name of each source of which a local file, folder or glob matches nothing, and what is wrong."""
    for name, source in params.sources.items():
        suffixes = getattr(catalog.find(SOURCES, source.source), "SUFFIXES", ())
        for path in getattr(source.params, "paths", ()):
            if "://" not in path:
                try:
                    opening.find_files([path], suffixes)
                except BadInput as error:
                    yield name, str(error)


@contextmanager
def open_tables(params: Params, data: Path, run: Path = RUN) -> Iterator[RecordWriter]:
    """Open the tables under `data`; they are complete if the block ends without an exception.

    run: the folder for intermediate files, which are deleted then.
    """

    def choose_split(group: str) -> str:
        return splits.choose_split(group, params.seed, params.validation_share, params.test_share)

    with RecordWriter(data, choose_split) as writer:
        yield writer
    file_stage.delete_parts(run)


@task(cache_policy=NO_CACHE, task_run_name="ingest {name}")
def ingest(name: str, source: Source, writer: RecordWriter, timings: Timings, run: Path = RUN) -> None:
    """Read one source to its end. run: the folder for intermediate files.

    Raises BadInput if it has no record, NothingLeft if all are quarantined, LostRows if its rows are not accounted for.
    """
    module, counts = cast(catalog.SourceModule, catalog.find(SOURCES, source.source)), ReadCounts()
    with timings.measure(name), Progress(f"ingestion of {name}", None, "records") as progress:
        records = file_stage.read_records(name, module, source.params, counts, run)
        for record in pair_labeled_answers(records):
            writer.add(name, record)
            progress.advance()
    writer.files.finish(name, counts)
    num_kept = sum(writer.num_records[name, kind] for kind in RECORD_KINDS)
    num_quarantined = writer.num_records[name, "quarantined"]
    if num_kept + num_quarantined == 0:
        raise BadInput(
            f"The source {name!r} (ingestion.sources in params.yaml) has no record. "
            "Add data to it, or remove its entry from params.yaml."
        )
    if num_kept == 0:
        reasons = ", ".join(f"{reason} {n}" for (of, reason), n in writer.num_by_reason.most_common() if of == name)
        first = writer.first_quarantined[name]
        location = first.file if first.line is None else f"{first.file}, line {first.line}"
        raise NothingLeft(
            f"All {num_quarantined} records of the source {name!r} were quarantined ({reasons}). The first is "
            f"{location}: {first.detail.rstrip('.')}. Correct the files, or the params of the source in params.yaml. "
            "All quarantined records are listed in documents/quarantine."
        )


@task(cache_policy=NO_CACHE)
def report(writer: RecordWriter, params: Params, data: Path, timings: Timings) -> None:
    """Write the report: rows read, kept, quarantined and skipped, by source, file, split and reason.

    Raises NothingLeft if params are strict and a source or file lost too much.
    """
    body = reporting.make_report(writer, params)
    body.write(data / "reports")
    reporting.write_files(writer, body, data / "reports" / "ingestion")
    timings.write()
    kept_shares.check_strict("ingestion", body.warnings, params)


def source_tables(name: str, entry: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Read a source to its end and return its tables and notes, without writing anything. Raises BadInput."""
    source, counts = Source.model_validate({"source": name, **entry}), ReadCounts()
    for _ in cast(catalog.SourceModule, catalog.find(SOURCES, name)).read(source.params, counts):
        pass
    return counts.tables, counts.notes


def preview(paths: Sequence[str]) -> previewing.Preview:
    """Return what would be read from files or folders. Raises BadInput if a path does not exist."""
    return previewing.preview(paths)


def check_preview(result: previewing.Preview, paths: Sequence[str]) -> None:
    """Raise BadInput if no file can be read."""
    previewing.require_any(result, paths)


def find_records(data: Path, record_id: str | None, matching: str | None) -> list[removals.Match]:
    """Return the ingested records with an id, or with a text that contains `matching`. Raises BadInput."""
    return list(removals.find(data, record_id, matching))


def remove_records(data: Path, matches: list[removals.Match], with_ids: bool) -> int:
    """Add records to the list that every ingestion applies. Return how many entries are new. Raises BadInput."""
    return removals.add(data, matches, with_ids)
