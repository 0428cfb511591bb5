"""Texts on disk as the kernels read them, mapped into memory: a corpus of any size costs pages, not memory."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import BoolArray

SCHEMA = pa.schema([pa.field("text", pa.large_string())])


def write(path: Path, chunks: Iterable[pa.Array]) -> pa.ChunkedArray:
    """Write chunks of large_string one by one to an Arrow file; its texts, mapped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for chunk in chunks:
            if len(chunk):
                writer.write_batch(pa.record_batch([chunk], schema=SCHEMA))
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"]


def keep(path: Path, texts: pa.ChunkedArray, kept: BoolArray) -> pa.ChunkedArray:
    """The texts where `kept`, in a file of their own."""

    def parts() -> Iterable[pa.Array]:
        start = 0
        for chunk in texts.chunks:
            yield pc.filter(chunk, pa.array(kept[start : start + len(chunk)]))
            start += len(chunk)

    return write(path, parts())
