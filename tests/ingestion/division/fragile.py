"""A source of which one file ends the process that reads it."""

import os
from collections.abc import Iterator

from tasks.documents import Document
from tasks.ingestion.opening import FileParams, InputFile

SUFFIXES = (".txt",)


class Params(FileParams, frozen=True, extra="forbid"):
    """Which files to read."""


def read_file(file: InputFile, _params: Params) -> Iterator[Document]:
    """Yield the content of a file."""
    file.count_rows()
    with file.open() as opened:
        text = opened.read().decode()
    if text == "fatal":
        os._exit(9)
    yield Document(file.name, text, file.name, rows=(file.name,))
