"""The document table: the one schema that documents have from ingestion to tokenization."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SPLITS = ("train", "validation", "test")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique and stable: the same input produces the same id
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # the key under ingestion.sources in params.yaml
        pa.field("group", pa.string(), nullable=False),  # records of one group, such as a package, share one split
        pa.field("split", pa.string(), nullable=False),  # one of SPLITS
        pa.field("metadata", pa.string(), nullable=False),  # a JSON object
    ]
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text as a source yields it. If `split` is empty, ingestion chooses the split by `group`.

    For the report, not stored: `changes`, what was changed or dropped while it was read, in plain words -> how often;
    `rows`, the file of each row that it was made of, or nothing for a further record of the same row; `format`.
    """

    id: str
    text: str
    group: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    changes: Mapping[str, int] = field(default_factory=dict)
    rows: tuple[str, ...] = field(default=("",), compare=False)
    format: str = field(default="", compare=False)

    def row(self, source: str, split: str) -> dict[str, str]:
        """Return this document as a row of SCHEMA."""
        return {
            "id": self.id,
            "text": self.text,
            "source": source,
            "group": self.group,
            "split": split,
            "metadata": json.dumps(self.metadata, ensure_ascii=False, sort_keys=True),
        }
