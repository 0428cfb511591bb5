"""Gopher quality, Gopher repetition and FineWeb by datatrove; run in the environment of `benchmarks.filters`.

python filters_peers.py TEXTS.parquet PROFILE WORD_PATTERN -> {"bytes", "seconds", "decisions": [[...] per document]}

WORD_PATTERN "" means datatrove's own tokenizer. A decision is "" (kept), a reason, or "error: ..." where it raises.
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
    """English as published; Chinese as FineWeb2's pipeline sets them from the bounds of its configuration."""
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
    """How many characters of Chinese stand for n words."""
    return (7 * n + 1) // 4


def with_spaces_of_words() -> None:
    """Let the top n-gram of characters be as long as if there were n - 1 spaces in it, not span(n) - 1."""
    words = {span(n): n for n in range(2, 5)}

    def find(grams: list[str]) -> int:
        gram, count = Counter(grams).most_common(1)[0]
        size = gram.count(" ") + 1
        return (len(gram) - size + words[size]) * count

    gopher_repetition_filter.find_top_duplicate = find


def with_words(pattern: str) -> None:
    """Let the filters split words by a regular expression, once for each text as datatrove does."""
    words = regex.compile(pattern)
    last: list[Any] = ["", []]

    def split(text: str, language: str = "") -> list[str]:
        if last[0] is not text:
            last[:] = text, words.findall(text)
        split_words: list[str] = last[1]
        return split_words

    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = split


def decide(judge: Callable[[Document], Any], document: Document) -> str:
    """What one filter says of one document."""
    try:
        decision = judge(document)
    except (ZeroDivisionError, IndexError) as error:
        return f"error: {error}"
    return "" if decision is True else decision[1]


def in_words(reason: str) -> str:
    """A reason that names an n-gram by its characters, by its words."""
    words = {str(span(n)): str(n) for n in range(2, 11)}
    return re.sub(r"\d+", lambda match: words[match[0]], reason) if "_gram" in reason else reason


def main(path: str, profile: str, pattern: str) -> None:
    """Judge every text and print."""
    table = pq.read_table(path)
    texts = table["text"].to_pylist()
    body = yaml.safe_load(table.schema.metadata[b"profile"])
    selected = filters(profile, body["stop_words"], body["filters"])
    if pattern:
        with_words(pattern)
        if profile == "zh":
            with_spaces_of_words()
    documents = [Document(text=text, id="") for text in texts]
    decide(selected[0].filter, documents[0])
    start = time.process_time()
    decisions = [[decide(one.filter, document) for one in selected] for document in documents]
    seconds = time.process_time() - start
    if profile == "zh":
        decisions = [[in_words(reason) for reason in row] for row in decisions]
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"bytes": size, "seconds": seconds, "decisions": decisions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
