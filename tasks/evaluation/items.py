"""The items behind each score, as Parquet, so that two runs can be compared item by item.

One file for each metric, <reports>/evaluation/items/<metric>.parquet, with one row per item, model and score. The id of
an item depends on its content alone: in two runs, the same item has the same id.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = "items"
MAX_CHARACTERS = 200  # of a document that an item shows


class Item(NamedTuple):
    """One measurement. score_name: the key of the score in the report; group: what belongs together in a bootstrap."""

    score_name: str
    model: str
    id: str
    group: str
    prompt: str
    answer: str
    score: float


def text_id(*texts: str) -> str:
    """The id of an item with these texts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write(folder: Path, items: Sequence[Item]) -> None:
    """Write `items` as <folder>.parquet; no file for no items."""
    import pyarrow as pa
    from pyarrow import parquet

    if not items:
        return
    columns: Iterable[tuple[object, ...]] = zip(*items, strict=True)
    arrays = {name: list(column) for name, column in zip(Item._fields, columns, strict=True)}
    arrays |= {name: [_valid(str(text)) for text in arrays[name]] for name in ("id", "group", "prompt", "answer")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.float64() if name == "score" else pa.string()) for name in Item._fields])
    parquet.write_table(pa.table(arrays, schema), folder.with_name(f"{folder.name}.parquet"), compression="zstd")


def _valid(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot represent."""
    return text.encode("utf-8", "replace").decode()
