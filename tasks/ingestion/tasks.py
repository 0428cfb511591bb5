"""Ingestion as Prefect tasks: each source into the tables, then the report."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field, SerializeAsAny, field_validator, model_serializer, model_validator

from tasks import catalog
from tasks.errors import BadInput, NothingLeft
from tasks.ingestion import splits
from tasks.ingestion.delivery import KINDS, Delivery
from tasks.progress import Progress
from tasks.reports import Report, Timings

SOURCES = "tasks.ingestion.sources"


class Source(BaseModel, frozen=True):
    """A paragraph under ingestion.sources: which module reads it (by default the one of its name), with what params."""

    source: str
    params: SerializeAsAny[BaseModel]

    @model_validator(mode="before")
    @classmethod
    def _find(cls, paragraph: Any) -> Any:
        """Source and dials side by side, as params.yaml has them -> the source and its own Params."""
        if not isinstance(paragraph, Mapping) or "params" in paragraph:
            return paragraph
        dials = dict(paragraph)
        expected: type[BaseModel] = catalog.find(SOURCES, str(dials.pop("source"))).Params
        for key in dials:
            if key not in expected.model_fields:
                raise ValueError(f"unknown key {key!r}; {catalog.suggest(str(key), expected.model_fields)}")
        return {"source": paragraph["source"], "params": expected(**dials)}

    @model_serializer
    def paragraph(self) -> dict[str, Any]:
        """As it stands in params.yaml."""
        return {"source": self.source, **self.params.model_dump()}


class Params(BaseModel, frozen=True, extra="forbid"):
    """The sources by name, and how their records are split (by group: a package, a number, a file ...)."""

    seed: int = Field(0, ge=0)
    validation_share: float = Field(0.05, ge=0, lt=0.5)
    test_share: float = Field(0.05, ge=0, lt=0.5)
    sources: dict[str, Source] = Field(min_length=1)

    @field_validator("sources", mode="before")
    @classmethod
    def _named(cls, paragraphs: Any) -> Any:
        """A paragraph without `source` is read by the source of its own name."""
        if not isinstance(paragraphs, Mapping):
            return paragraphs
        return {
            name: {"source": str(name), **(paragraph or {})} if isinstance(paragraph, Mapping | None) else paragraph
            for name, paragraph in paragraphs.items()
        }


@contextmanager
def delivery(params: Params, data: Path) -> Iterator[Delivery]:
    """The open tables under `data`; complete when the block ends without an exception."""

    def split(group: str) -> str:
        return splits.choose(group, params.seed, params.validation_share, params.test_share)

    with Delivery(data, split) as opened:
        yield opened


@task(cache_policy=NO_CACHE, task_run_name="ingest {name}")
def ingest(name: str, source: Source, into: Delivery, timings: Timings) -> None:
    """Read one source to its end. Raises BadInput where it holds nothing, NothingLeft where all of it is bad."""
    module = catalog.find(SOURCES, source.source)
    with timings.measure(name), Progress(f"ingestion of {name}", None, "records") as progress:
        for record in module.read(source.params):
            into.add(name, record)
            progress.advance()
    kept = sum(into.records[name, kind] for kind in KINDS)
    quarantined = into.records[name, "quarantined"]
    if kept + quarantined == 0:
        raise BadInput(
            f"the source {name!r} (ingestion.sources in params.yaml) holds nothing to read. "
            "Give it something, or take its paragraph out."
        )
    if kept == 0:
        reasons = ", ".join(f"{reason} {n}" for (of, reason), n in into.reasons.most_common() if of == name)
        first = into.first_bad[name]
        where = first.file if first.line is None else f"{first.file}, line {first.line}"
        raise NothingLeft(
            f"all {quarantined} records of the source {name!r} were quarantined ({reasons}). The first: {where}: "
            f"{first.detail}. Mend the files, or what the source's paragraph in params.yaml says about them; all are "
            "listed in documents/quarantine."
        )


@task(cache_policy=NO_CACHE)
def report(into: Delivery, data: Path, timings: Timings) -> None:
    """What was read, kept and quarantined, by source, split and reason: read = kept + quarantined."""
    sources = sorted({source for source, _ in into.records})
    rows = [_row(source, into) for source in sources]
    columns = ("read", "kept", "quarantined", *KINDS)
    body = Report("ingestion", counts={column: sum(row[column] for row in rows) for column in columns})
    body.tables["sources"] = rows
    body.tables["splits"] = [
        {"source": source, "kind": kind, "split": split, "records": n}
        for (source, kind, split), n in sorted(into.splits.items())
    ]
    body.tables["quarantine"] = [
        {"source": source, "reason": reason, "records": n} for (source, reason), n in sorted(into.reasons.items())
    ]
    body.write(data / "reports")
    timings.write()


def _row(source: str, into: Delivery) -> dict[str, Any]:
    kinds = {kind: into.records[source, kind] for kind in KINDS}
    quarantined, kept = into.records[source, "quarantined"], sum(kinds.values())
    return {"source": source, "read": kept + quarantined, "kept": kept, "quarantined": quarantined, **kinds}
