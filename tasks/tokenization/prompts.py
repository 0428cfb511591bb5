"""Distinct prompts of a corpus that does not fit into memory: their metadata wait in a file until all are known."""

import hashlib
import json
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.conversations import Message

Prompt = tuple[list[Message], dict[str, Any], str]
"""messages, metadata, source"""


class DistinctPrompts:
    """Prompts, each once, in the order in which they are first seen. About 200 bytes of each are in memory.

    Of equal prompts, the metadata and the source of the first count, or of the first that has a `reference`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.sources: list[str] = []
        self._indices: dict[bytes, int] = {}  # the digest of the messages -> the index of the prompt
        self._has_reference = bytearray()
        self._offsets, self._sizes = array("q"), array("q")  # where the metadata of each prompt are in the file
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `close` closes it

    def __len__(self) -> int:
        return len(self.sources)

    def add(self, prompts: Iterable[Prompt]) -> Iterator[list[Message]]:
        """Read all prompts, and yield the messages of each that has not been seen before."""
        for messages, metadata, source in prompts:
            digest = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).digest()
            index = self._indices.setdefault(digest, len(self))
            is_new, has_reference = index == len(self), "reference" in metadata
            if is_new:
                self.sources.append("")
                self._has_reference.append(0)
                self._offsets.append(0)
                self._sizes.append(0)
            if is_new or (has_reference and not self._has_reference[index]):
                self._store(index, metadata)
                self.sources[index], self._has_reference[index] = sys.intern(source), has_reference
            if is_new:
                yield messages

    def metadata(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of each prompt, after all were added."""
        for offset, size in zip(self._offsets, self._sizes, strict=True):
            self._file.seek(offset)
            yield json.loads(self._file.read(size))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _store(self, index: int, metadata: dict[str, Any]) -> None:
        self._offsets[index] = self._file.tell()
        self._sizes[index] = self._file.write(json.dumps(metadata).encode())
