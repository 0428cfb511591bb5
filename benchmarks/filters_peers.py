"""Gopher quality, Gopher repetition and FineWeb by datatrove, in a separate environment of `benchmarks.filters`.

python filters_peers.py TEXTS.parquet PROFILE WORD_PATTERN -> {"bytes", "seconds", "decisions": [[...] per document]}

An empty WORD_PATTERN selects datatrove's own tokenizer. A decision is "" (kept), a reason, or "error: ..." for an
exception.
"""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import regex
import yaml
from datatrove.data import Document
from datatrove.pipeline.filters import (
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)


def filters(profile: str, stop_words: list[str], bounds: dict[str, dict[str, Any]]) -> list[Any]:
    """The filters: English as published, Chinese with the bounds of FineWeb2, passed as its pipeline passes them."""
    if profile == "en":
        return [GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()]
    quality, repetition, fineweb = (bounds[name] for name in ("gopher_quality", "gopher_repetition", "fineweb"))
    language = "cmn_Hani"
    return [
        GopherQualityFilter(
            language=language,
            stop_words=stop_words,
            min_avg_word_length=quality["min_mean_word_length"],
            max_avg_word_length=quality["max_mean_word_length"],
            max_non_alpha_words_ratio=quality["min_alpha_word_ratio"],
        ),
        GopherRepetitionFilter(
            language=language,
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=repetition["max_duplicate_line_ratio"],
            top_n_grams=tuple((span(n), repetition[f"max_top_{n}_gram_ratio"]) for n in range(2, 5)),
            dup_n_grams=tuple((span(n), repetition[f"max_duplicate_{n}_gram_ratio"]) for n in range(5, 11)),
        ),
        FineWebQualityFilter(
            language=language,
            short_line_thr=999,
            char_duplicates_ratio=fineweb["max_duplicate_char_ratio"],
            line_punct_thr=fineweb["min_terminal_line_ratio"],
            new_line_ratio=fineweb["max_newline_word_ratio"],
        ),
    ]


def span(n: int) -> int:
    """The number of Chinese characters that correspond to n words."""
    return (7 * n + 1) // 4


def count_spaces_of_words() -> None:
    """Compute the length of a top n-gram of characters as if it contained n - 1 spaces instead of span(n) - 1."""
    words = {span(n): n for n in range(2, 5)}

    def find(grams: list[str]) -> int:
        gram, count = Counter(grams).most_common(1)[0]
        size = gram.count(" ") + 1
        return (len(gram) - size + words[size]) * count

    gopher_repetition_filter.find_top_duplicate = find


def split_words_by(pattern: str) -> None:
    """Make the filters split words by a regular expression, once per text as datatrove does."""
    words = regex.compile(pattern)
    last: list[Any] = ["", []]

    def split(text: str, language: str = "") -> list[str]:
        if last[0] is not text:
            last[:] = text, words.findall(text)
        split_words: list[str] = last[1]
        return split_words

    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = split


def decide(apply_filter: Callable[[Document], Any], document: Document) -> str:
    """The decision of one filter on one document."""
    try:
        decision = apply_filter(document)
    except (ZeroDivisionError, IndexError) as error:
        return f"error: {error}"
    return "" if decision is True else decision[1]


def reason_in_words(reason: str) -> str:
    """A reason with the length of its n-gram in words instead of characters."""
    words = {str(span(n)): str(n) for n in range(2, 11)}
    return re.sub(r"\d+", lambda match: words[match[0]], reason) if "_gram" in reason else reason


def main(path: str, profile: str, pattern: str) -> None:
    """Print the decisions on all texts."""
    table = pq.read_table(path)
    texts = table["text"].to_pylist()
    body = yaml.safe_load(table.schema.metadata[b"profile"])
    selected = filters(profile, body["stop_words"], body["filters"])
    if pattern:
        split_words_by(pattern)
        if profile == "zh":
            count_spaces_of_words()
    documents = [Document(text=text, id="") for text in texts]
    decide(selected[0].filter, documents[0])
    start = time.process_time()
    decisions = [[decide(one.filter, document) for one in selected] for document in documents]
    seconds = time.process_time() - start
    if profile == "zh":
        decisions = [[reason_in_words(reason) for reason in row] for row in decisions]
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"bytes": size, "seconds": seconds, "decisions": decisions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
