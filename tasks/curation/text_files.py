"""Texts in Arrow files that are mapped into memory: kernels read them in place, and a large corpus needs no memory."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import BoolArray

SCHEMA = pa.schema([pa.field("text", pa.large_string())])


def write(path: Path, chunks: Iterable[pa.Array]) -> pa.ChunkedArray:
    """Write chunks of large_string, one at a time, to an Arrow file. Return its texts, mapped into memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # texts of an earlier file that are still mapped stay as they are
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for chunk in chunks:
            if len(chunk):
                writer.write_batch(pa.record_batch([chunk], schema=SCHEMA))
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"]


def filter_texts(path: Path, texts: pa.ChunkedArray, kept: BoolArray) -> pa.ChunkedArray:
    """Write the texts where `kept`, bool[n], is true to an Arrow file of their own. Return them, mapped into memory."""

    def kept_chunks() -> Iterable[pa.Array]:
        start = 0
        for chunk in texts.chunks:
            yield pc.filter(chunk, pa.array(kept[start : start + len(chunk)]))
            start += len(chunk)

    return write(path, kept_chunks())
