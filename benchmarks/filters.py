"""Gopher quality, Gopher repetition and FineWeb beside datatrove: speed and equality of every decision as published.

    make bench NAME=filters

CPU seconds of one core for all three filters on texts in memory. Both sides split words by the same regular expression;
datatrove's default (spaCy) is timed on a part of the texts. A Chinese n-gram has as many characters as n words of a
dictionary have, so datatrove gets this number as its n. Athanor's kernel measures all other signals as well.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import regex

from benchmarks import corpora, peers
from benchmarks.minhash import PEERS
from tasks import catalog
from tasks.curation import filtering
from tasks.curation.signals import signals
from tasks.curation.signals.language import Identified
from tasks.curation.text import characters, phrases

# What the defaults correct for Chinese and for short texts, switched off.
PUBLISHED: dict[str, dict[str, Any]] = {
    "gopher_quality": {"published": True},
    "gopher_repetition": {"count_single": True},
    "fineweb": {"line_ends": "last_character", "min_lines": 1},
}
FILTERS = ("gopher_quality", "gopher_repetition", "fineweb")
MIN_DOCUMENTS, PIECE, DEFAULT_BYTES = 50_000, 2_000, 3 << 20
REASONS = {
    "too_few_words": "gopher_short_doc",
    "too_many_words": "gopher_long_doc",
    "words_too_short": "gopher_below_avg_threshold",
    "words_too_long": "gopher_above_avg_threshold",
    "too_many_hashes": "gopher_too_many_hashes",
    "too_many_ellipses": "gopher_too_many_ellipsis",
    "too_many_bullets": "gopher_too_many_bullets",
    "too_many_line_ellipses": "gopher_too_many_end_ellipsis",
    "too_few_words_with_letters": "gopher_below_alpha_threshold",
    "too_few_stop_words": "gopher_enough_stop_words",
    "duplicate_paragraph": "dup_para_frac",
    "duplicate_paragraph_char": "dup_para_char_frac",
    "duplicate_line": "dup_line_frac",
    "duplicate_line_char": "dup_line_char_frac",
    **{f"top_{n}_gram": f"top_{n}_gram" for n in range(2, 5)},
    **{f"duplicate_{n}_gram": f"duplicated_{n}_n_grams" for n in range(5, 11)},
    "empty": "empty",
    "too_few_line_ends": "line_punct_ratio",
    "too_many_short_lines": "short_line_ratio",
    "duplicate_lines": "char_dup_ratio",
    "too_many_newlines": "list_ratio",
}


def english() -> list[str]:
    """Pages, books and answers, and documentation in pieces of about 2,000 characters."""
    texts = corpora.english(16 << 20)
    for document in corpora.documentation(256 << 20):
        texts.extend(pieces(document))
        if len(texts) > MIN_DOCUMENTS * 1.2:
            break
    return [text for text in texts if text and not single(text)]


def single(text: str) -> bool:
    """Whether most words are single Han or Kana characters."""
    if max(text, default="") < "\u3005":
        return False
    words = regex.findall(characters.word_pattern(), text)
    classes = characters.class_table()
    singles = sum(ord(word[0]) >= len(classes) or classes[ord(word[0])] & characters.SINGLE > 0 for word in words)
    return bool(2 * singles > len(words))


def pieces(document: str) -> list[str]:
    """A document cut behind lines, each piece of at least PIECE characters."""
    pieces_of_text, part, size = [], [], 0
    for line in document.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= PIECE:
            pieces_of_text.append("".join(part))
            part, size = [], 0
    return [*pieces_of_text, "".join(part)]


def run_ours(texts: list[str], language: str) -> tuple[float, list[list[str]]]:
    """CPU seconds (the best of three), and for each document what each filter says first, in datatrove's words."""
    array, profile = pa.array(texts, pa.large_string()), filtering.profile(language)
    languages = {language: filtering.Language(profile=language, changes=PUBLISHED)}
    filter_params = filtering.params_by_language(languages, FILTERS)[language]
    names, ones = np.full(len(texts), language), np.ones(len(texts))
    identified = Identified(names, ones, 0 * ones)
    seconds, decisions = [], np.full((len(texts), len(FILTERS)), "", object)
    for _ in range(3):
        start = time.process_time()
        rows, stop_word_counts = signals.measure_rows(array, {language: profile.stop_words})
        nothing = np.zeros((len(texts), len(phrases.PHRASE_KINDS)))
        measured = signals.combine_columns(rows, nothing, stop_word_counts, [language], identified)
        reasons_by_filter = [
            catalog.find(filtering.FILTERS, name).drop_reasons(measured, filter_params[name]) for name in FILTERS
        ]
        seconds.append(time.process_time() - start)
    for column, reasons in enumerate(reasons_by_filter):
        for reason, verdict in reversed(reasons.items()):
            decisions[verdict.dropped, column] = REASONS[reason]
    return min(seconds), decisions.tolist()


def run_datatrove(texts: list[str], language: str, pattern: str) -> Any:
    """What datatrove says, and how long it takes."""
    profile = json.dumps(filtering.profile(language).model_dump())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.parquet"
        table = pa.table({"text": pa.array(texts, pa.large_string())}).replace_schema_metadata({"profile": profile})
        pq.write_table(table, path)
        interpreter = peers.python("curation", PEERS)
        return peers.run(interpreter, Path("benchmarks/filters_peers.py"), path, language, pattern)


def compare(texts: list[str], language: str) -> dict[str, float]:
    """Rates of both, and on how many documents all three filters say the same for the same reason."""
    seconds, decisions = run_ours(texts, language)
    other = run_datatrove(texts, language, characters.word_pattern())
    failed = [any(word.startswith("error") for word in row) for row in other["decisions"]]
    pairs = [(a, b) for a, b, bad in zip(decisions, other["decisions"], failed, strict=True) if not bad]
    for text, a, b in zip(texts, decisions, other["decisions"], strict=True):
        if a != b and not any(word.startswith("error") for word in b):
            print(f"differs: {a} {b} {text[:80]!r}", file=sys.stderr)
    megabytes = other["bytes"] / 1e6
    return {
        "documents": len(pairs),
        "agreed": sum(a == b for a, b in pairs),
        "datatrove_raises": sum(failed),
        "kept": sum(not any(a) for a, _ in pairs),
        "mb_per_cpu_s": megabytes / seconds,
        "datatrove_mb_per_cpu_s": megabytes / other["seconds"],
    }


def main() -> None:
    """Print a table, and the results as one line of JSON last."""
    print(corpora.source())
    texts = english()
    results = {"en": compare(texts, "en")}
    chinese = [text for text in corpora.chinese(8 << 20) if single(text)]
    if chinese:
        results["zh"] = compare(chinese, "zh")
    part = texts[:: max(1, sum(map(len, texts)) // DEFAULT_BYTES)]
    default = run_datatrove(part, "en", "")
    default_rate = default["bytes"] / 1e6 / default["seconds"]
    seconds, _ = run_ours(part, "en")
    columns = list(results["en"])
    print(" ".join(f"{name:>22}" for name in ("profile", *columns)))
    for name, row in results.items():
        print(" ".join(f"{value:>22}" for value in (name, *(f"{row[column]:.6g}" for column in columns))))
    print(f"datatrove's default on {len(part)} documents: {default_rate:.2f} MB per CPU-second")
    print("datatrove raises on texts without a word (division by zero); there is nothing to compare then.")
    documents = sum(row["documents"] for row in results.values())
    body = {
        "vs_datatrove_regex": results["en"]["mb_per_cpu_s"] / results["en"]["datatrove_mb_per_cpu_s"],
        "vs_datatrove_default": default["bytes"] / 1e6 / seconds / default_rate,
        "agreement": sum(row["agreed"] for row in results.values()) / documents,
        "documents": documents,
        "mb_per_cpu_s": results["en"]["mb_per_cpu_s"],
        "datatrove_raises": sum(row["datatrove_raises"] for row in results.values()),
    }
    print(json.dumps(body))


if __name__ == "__main__":
    main()
