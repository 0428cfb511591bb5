"""Items of a test set of your own that also occur in the training data.

Curation compares the built-in test split with the training data, but it does not know test sets that evaluation reads
from files. A line of a prompt that occurs in no other prompt is what makes the item a question of its own; where the
same line is in a training document or message, the item is counted as leaked. Rephrased questions are not noticed.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MIN_CHARACTERS, MIN_HAN_CHARACTERS = 24, 12  # of a line; shorter ones are in many texts by chance
COLUMNS = {"curated": "text", "conversations/curated": "messages"}


def leaked(prompts: Iterable[str], data: Path) -> tuple[int, int]:
    """The number of prompts with a line of their own that training texts contain, and the number that were searched."""
    lines_by_prompt = [set(lines_of(prompt)) for prompt in prompts]
    counts = Counter(line for lines in lines_by_prompt for line in lines)
    own = [{line for line in lines if counts[line] == 1} for lines in lines_by_prompt]
    searched = {line: index for index, lines in enumerate(own) for line in lines}
    leaked_items = {searched[line] for text in training_texts(data) for line in lines_of(text) if line in searched}
    return len(leaked_items), sum(bool(lines) for lines in own)


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text that are long enough, in one width and case and without double spaces."""
    for line in unicodedata.normalize("NFKC", text).casefold().splitlines():
        line = " ".join(line.split())
        is_han = any("\u4e00" <= character <= "\u9fff" for character in line[:MIN_HAN_CHARACTERS])
        if len(line) >= (MIN_HAN_CHARACTERS if is_han else MIN_CHARACTERS):
            yield line


def training_texts(data: Path) -> Iterator[str]:
    """The documents and messages of the split `train` below `data`."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    for folder, column in COLUMNS.items():
        for path in sorted((data / folder).glob("*.parquet")):
            for batch in parquet.ParquetFile(path).iter_batches(columns=[column, "split"]):
                for value in batch.filter(pc.equal(batch.column("split"), "train")).column(column).to_pylist():
                    yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for message in value:
            yield str(message["content"])
