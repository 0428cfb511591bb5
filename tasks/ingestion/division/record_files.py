"""Records as a file, through which a task hands what it has read to the driver: one JSON value each, in their order."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.conversations import Conversation, Preference
from tasks.documents import Document
from tasks.ingestion.decoding import Location
from tasks.ingestion.labels import LabeledRow
from tasks.ingestion.preference_formats import LabeledAnswer
from tasks.ingestion.records import Record
from tasks.tables import Quarantined

SCHEMA = pa.schema([("record", pa.large_binary())])  # JSON: the name of its class, then its fields
BATCH_BYTES = 4 << 20
_CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Document, Conversation, Preference, Quarantined, LabeledRow)
}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (*_CLASSES.values(), Location, LabeledAnswer)}
_VALUES = {kind: attrgetter(*names) for kind, names in _FIELDS.items()}


def write(path: Path, records: Iterable[Record]) -> int:
    """Write records. Return their number. Memory: one batch."""
    batch, num_bytes, num_records = list[bytes](), 0, 0
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        for record in records:
            content = _encode(record)
            batch.append(content)
            num_bytes += len(content)
            num_records += 1
            if num_bytes >= BATCH_BYTES:
                writer.write_batch(pa.record_batch([batch], schema=SCHEMA))
                batch, num_bytes = [], 0
        if batch:
            writer.write_batch(pa.record_batch([batch], schema=SCHEMA))
    return num_records


def read(path: Path) -> Iterator[Record]:
    """Yield what `write` has written."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    for number in range(file.num_record_batches):
        yield from map(_decode, file.get_batch(number).column(0).to_pylist())


def _encode(record: Record) -> bytes:
    values = [type(record).__name__, *_VALUES[type(record)](record)]
    # Half of a surrogate pair, which only the tables refuse, passes as it is.
    return json.dumps(values, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else _VALUES[type(value)](value)


def _decode(content: bytes) -> Record:
    name, *values = json.loads(content.decode("utf-8", "surrogatepass"))
    kind = _CLASSES[name]
    arguments = dict(zip(_FIELDS[kind], values, strict=True))
    if kind is LabeledRow:
        arguments["location"] = Location(*arguments["location"])
        arguments["labeled"] = LabeledAnswer(*arguments["labeled"])
        arguments["others"] = tuple(Location(*other) for other in arguments["others"])
    elif kind is not Quarantined:
        arguments["rows"] = tuple(arguments["rows"])
    record: Record = kind(**arguments)
    return record
