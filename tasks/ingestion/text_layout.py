"""How plain text is divided into documents, judged from the first lines of a file: one per line, paragraph or file.

Also recognizes tables without a header, which are often named .txt: a label and a text between tabs.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, islice
from typing import Literal

from tasks.ingestion.decoding import Line, read_lines
from tasks.ingestion.opening import FileParams, InputFile, read_files

Per = Literal["file", "paragraph", "line"]

MAX_LINES = 10_000  # of a file that are looked at
LONG_CHARACTERS = 100_000  # a larger file is rarely one document; published filters drop texts of more words
MIN_LINE_WIDTH = 160  # mean width of lines that are not broken by an editor
MIN_SENTENCE_SHARE, MIN_BLANK_SHARE = 0.5, 0.02  # shares of the lines that end a sentence, and before a blank one
MIN_TABLE_ROWS, MAX_LABEL_SHARE, MAX_LABEL_CHARACTERS = 10, 0.1, 20
MIN_WIDTH_RATIO = 3.0  # of the column of texts to every other one
_WIDE = re.compile("[\u3040-\u9fff\uac00-\ud7a3]")
_SENTENCE_END = re.compile("[.!?。！？…][\"'”’」』）)]*\\s*$")


def width(text: str) -> int:
    """Return the length of a text in letters: a Chinese, Japanese or Korean character says as much as three."""
    return len(text) + 2 * len(_WIDE.findall(text))


def first_lines(path: str, suffixes: tuple[str, ...] = (".txt", ".text"), max_lines: int = MAX_LINES) -> list[str]:
    """Return the first lines of a file, or of the first member of an archive with one of `suffixes`."""
    params = FileParams(paths=(path,))
    for file in read_files(params, suffixes):
        if isinstance(file, InputFile):
            return [line.text for line in islice(read_lines(file, params), max_lines) if isinstance(line, Line)]
    return []


def split_rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the values of each line of a table that is not blank."""
    texts = [line for line in lines if line.strip()]
    try:
        return list(csv.reader(texts, delimiter=delimiter))
    except csv.Error:
        return [line.split(delimiter) for line in texts]


def choose_per(lines: Sequence[str]) -> Per:
    """Return what becomes one document of a file with these first lines, blank ones included.

    A file of up to LONG_CHARACTERS is one document. In a longer one, blank lines separate paragraphs; without them,
    each line is a document if most lines end a sentence or are longer than those that an editor breaks.
    """
    texts = [line for line in lines if line.strip()]
    if sum(map(len, texts)) <= LONG_CHARACTERS:
        return "file"
    num_sentences = sum(bool(_SENTENCE_END.search(line)) for line in texts)
    num_paragraphs = sum(1 for is_blank, _ in groupby(lines, lambda line: not line.strip()) if not is_blank)
    if num_paragraphs - 1 >= MIN_BLANK_SHARE * len(texts):
        return "paragraph"
    is_complete = num_sentences >= MIN_SENTENCE_SHARE * len(texts)
    return "line" if is_complete or sum(map(width, texts)) >= MIN_LINE_WIDTH * len(texts) else "file"


def is_label_table(lines: Sequence[str]) -> bool:
    """Return whether each line has the same number of tabs, and a column consists of a few short labels."""
    rows = [line.split("\t") for line in lines if line.strip()]
    if len(rows) < MIN_TABLE_ROWS or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return False
    return any(_is_label(column) for column in zip(*rows, strict=True))


def name_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return names for the columns of a table without a header: `text`, `label`, or otherwise `column_1` and so on.

    Returns nothing if the first row may be a header, or if no column has by far the longest texts. A name is neither a
    number nor a value that occurs again in its column.
    """
    rows = [row for row in rows if len(row) == len(rows[0])]
    if len(rows) < MIN_TABLE_ROWS or len(rows[0]) < 2:
        return []  # one line alone says little
    columns = list(zip(*rows, strict=True))
    if not any(column[0].strip().isdigit() or column[0] in column[1:] for column in columns):
        return []
    widths = [sum(map(width, column)) for column in columns]
    longest = max(range(len(columns)), key=widths.__getitem__)
    if any(MIN_WIDTH_RATIO * w > widths[longest] for number, w in enumerate(widths) if number != longest):
        return []
    names = ["label" if _is_label(column) else f"column_{number}" for number, column in enumerate(columns, 1)]
    names[longest] = "text"
    if names.count("label") > 1:
        names = [name if name == "text" else f"column_{number}" for number, name in enumerate(names, 1)]
    return names


def _is_label(column: Sequence[str]) -> bool:
    values = Counter(column)
    return len(values) <= max(2, MAX_LABEL_SHARE * len(column)) and max(map(len, values)) <= MAX_LABEL_CHARACTERS
