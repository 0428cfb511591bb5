"""Real text for benchmarks: public data in ../shared/data where it exists, and the installed documentation."""

import gzip
import itertools
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path("../shared/data")
SUFFIXES = (".py", ".md", ".rst", ".txt")


def source() -> str:
    """A line that says where the text of a benchmark comes from."""
    return (
        f"text: {DATA} and the installed packages"
        if DATA.is_dir()
        else f"text: the installed packages ({DATA} is absent)"
    )


def documentation(max_bytes: int, seed: int = 0) -> list[str]:
    """Files of the installed packages with code and documentation, shuffled, up to a total size."""
    root = Path(sysconfig.get_paths()["purelib"])
    paths = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    random.Random(seed).shuffle(paths)
    return _until(max_bytes, (text for path in paths if (text := _read(path))))


def english(max_bytes: int) -> list[str]:
    """Web pages, articles and books in pieces; documentation where there are none."""
    pages = (json.loads(line)["text"] for line in lines("web_text_en/*.jsonl.gz"))
    books = (" ".join(part) for part in _batched(lines("lm_text_en/*.txt.gz"), 40))
    answers = (record.get("output", "") for record in map(json.loads, lines("alpaca_en/*.jsonl.gz")))
    texts = _until(max_bytes, itertools.chain(pages, books, answers))
    return texts or documentation(max_bytes)


def chinese(max_bytes: int, min_characters: int = 100) -> list[str]:
    """News and reviews of at least `min_characters`; nothing where there are none."""
    texts = itertools.chain(lines("text_zh/CLUE*.txt.gz"), lines("text_zh/chnsenticorp.txt.gz"))
    return _until(max_bytes, (line for line in texts if len(line) >= min_characters))


def clean_chinese(min_characters: int = 100) -> list[str]:
    """Chinese written with care: translated news, passages of reading tests, answers; nothing where there is none."""
    flores = DATA / "flores_devtest" / "devtest.zh"
    sentences = iter(flores.read_text(encoding="utf-8").splitlines()) if flores.is_file() else iter(())
    news = ("".join(part) for part in _batched(sentences, 6))
    tests = ("\n".join(passage[0]) for path in sorted(DATA.glob("eval_c3/c3-m-*.gz")) for passage in _json(path))
    answers = (json.loads(line)["output"] for line in lines("alpaca_zh_a/*.jsonl.gz"))
    texts = (text for text in itertools.chain(news, tests, answers) if len(text) >= min_characters)
    return [text for text in texts if sum("\u4e00" <= c <= "\u9fff" for c in text) > 0.6 * len(text)]


def _json(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def lines(pattern: str) -> Iterator[str]:
    """Yield the lines of all files that match, without outer white space; blank lines are skipped."""
    for path in sorted(DATA.glob(pattern)):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from (line.strip() for line in file if line.strip())


def _batched(parts: Iterator[str], size: int) -> Iterator[tuple[str, ...]]:
    while part := tuple(itertools.islice(parts, size)):
        yield part


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return ""


def _until(max_bytes: int, texts: Iterator[str]) -> list[str]:
    first_texts, total = [], 0
    for text in texts:
        total += len(text.encode("utf-8", "replace"))
        if total > max_bytes:
            break
        first_texts.append(text)
    return first_texts
