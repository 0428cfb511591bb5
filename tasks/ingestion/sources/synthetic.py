"""What `python -m flows.synthesis` has made (data/raw/synthetic): conversations, instructions and preference pairs.

Every record keeps its recipe, endpoint, model and license note as metadata. An instruction without an answer gives no
record and is counted.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import Field

from tasks.addresses import Address
from tasks.conversations import Conversation, Message, Preference
from tasks.ingestion import records, splits
from tasks.ingestion.decoding import UnusableRecord
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

KINDS = ("conversations", "preferences")
SUFFIXES = ("records.jsonl",)
NO_ANSWER = "an instruction without an answer"
LICENSE = "the license note differs from the required one"
ORIGIN = ("recipe", "endpoint", "model", "license")


class Params(FileParams, frozen=True, extra="forbid"):
    """Which results to read."""

    paths: tuple[Address, ...] = Field(
        (Address("data/raw/synthetic"),), min_length=1, description="Files, folders or globs of results."
    )
    licenses: tuple[str, ...] | None = Field(
        None, description="License notes whose records are used; null uses all. Others are skipped and counted."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield conversations and preferences. Raises BadInput for a missing path."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file."""
    for item in records.read_objects(file, params):
        if isinstance(item, Quarantined):
            yield item
            continue
        location, row = item
        try:
            metadata = {name: str(row[name]) for name in ORIGIN}
            if params.licenses is not None and metadata["license"] not in params.licenses:
                file.counts.skip(file.name, LICENSE)
            elif "messages" not in row and "chosen" not in row:
                file.counts.skip(file.name, NO_ANSWER)
            else:
                yield _record(row, metadata, file.name)
        except (KeyError, TypeError, AttributeError) as error:
            detail = f"The line is no record of a synthesis: {type(error).__name__}: {error}."
            yield location.quarantine(UnusableRecord("unknown_format", detail))


def _record(row: dict[str, Any], metadata: dict[str, str], file: str) -> Conversation | Preference:
    identifier = hashlib.sha256(orjson.dumps(row)).hexdigest()[:24]
    if "messages" in row:
        messages: list[Message] = list(row["messages"])
        group = splits.prompt_group(messages[:-1])
        return Conversation(identifier, messages, group, metadata, rows=(file,), format="synthetic")
    prompt: list[Message] = list(row["prompt"])
    group = splits.prompt_group(prompt)
    return Preference(
        identifier,
        prompt,
        str(row["chosen"]),
        str(row["rejected"]),
        group,
        "",
        metadata,
        rows=(file,),
        format="synthetic",
    )
