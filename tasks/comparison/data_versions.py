"""Compare two versions of the data: sources, languages, lengths, drops, new and vanished documents, drift of signals.

A version is a folder like data/ with curated/ and dropped/documents/. Documents are compared by their ids, which are
the same for the same input, and by the hash of their text.
"""

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import BadInput
from tasks.pages.markdown import cell, table

Array = npt.NDArray[np.float64]

CURATED, DROPPED = Path("curated"), Path("dropped", "documents")
MAX_EXAMPLES = 5  # of new, vanished and changed documents
MAX_CHARACTERS = 120  # of an example
NOTABLE_DRIFT = 0.1  # of the Kolmogorov-Smirnov statistic: a tenth of the documents would have to move
SHARES = {  # signal -> regular expression of the characters that it counts, as a share of all
    "digit_share": r"[0-9]",
    "upper_share": r"[A-Z]",
    "space_share": r"\s",
    "punctuation_share": r"[[:punct:]]",
    "non_ascii_share": r"[^\x00-\x7f]",
}


@dataclass
class DataVersion:
    """What is in one version. texts: id -> hash of the text; signals: name -> one value per kept document."""

    label: str
    texts: dict[str, int] = field(default_factory=dict)
    beginnings: dict[str, str] = field(default_factory=dict)
    kept_by_source: Counter[str] = field(default_factory=Counter)
    kept_by_language: Counter[str] = field(default_factory=Counter)
    dropped_by_source: Counter[str] = field(default_factory=Counter)
    dropped_by_reason: Counter[str] = field(default_factory=Counter)
    signals: dict[str, Array] = field(default_factory=dict)


def read(label: str, data: Path) -> DataVersion:
    """Read a version. Raises BadInput if curation has not run there."""
    import pyarrow.parquet as pq

    version, columns = DataVersion(label), dict[str, list[Array]]()
    shards = sorted((data / CURATED).glob("*.parquet"))
    if not shards:
        raise BadInput(f"{label}: there are no documents in {data / CURATED}. Run curation there first.")
    for path in shards:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "text", "source", "language"]):
            version.kept_by_source.update(batch.column("source").to_pylist())
            version.kept_by_language.update(batch.column("language").to_pylist())
            for name, values in measure(batch.column("text")).items():
                columns.setdefault(name, []).append(values)
            for key, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
                version.texts[key] = zlib.crc32(text.encode("utf-8", "surrogatepass")) << 32 | len(text)
                version.beginnings[key] = " ".join(text[:MAX_CHARACTERS].split())
    version.signals = {name: np.concatenate(parts) for name, parts in columns.items()}
    for path in sorted((data / DROPPED).glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["source", "reason"]):
            version.dropped_by_source.update(batch.column("source").to_pylist())
            version.dropped_by_reason.update(batch.column("reason").to_pylist())
    return version


def measure(texts: Any) -> dict[str, Array]:
    """Signals of an Arrow array of texts, each [n], computed over its buffers."""
    import pyarrow.compute as pc

    characters = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.float64)
    lines = pc.count_substring(texts, "\n").to_numpy(zero_copy_only=False).astype(np.float64) + 1
    signals = {"characters": characters, "lines": lines, "characters_per_line": characters / lines}
    for name, pattern in SHARES.items():
        counts = pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
        signals[name] = counts / np.maximum(characters, 1)
    return signals


def compare(a: DataVersion, b: DataVersion) -> dict[str, Any]:
    """What differs from `b` in `a`, as JSON values: `new` documents are those that only `a` has."""
    new, vanished = a.texts.keys() - b.texts.keys(), b.texts.keys() - a.texts.keys()
    changed = {key for key in a.texts.keys() & b.texts.keys() if a.texts[key] != b.texts[key]}
    return {
        "a": a.label,
        "b": b.label,
        "documents": {"a": len(a.texts), "b": len(b.texts)},
        "new": _some(new, a.beginnings),
        "vanished": _some(vanished, b.beginnings),
        "changed": _some(changed, a.beginnings),
        "sources": _side_by_side(a.kept_by_source, b.kept_by_source),
        "languages": _side_by_side(a.kept_by_language, b.kept_by_language),
        "dropped_by_source": _side_by_side(a.dropped_by_source, b.dropped_by_source),
        "dropped_by_reason": _side_by_side(a.dropped_by_reason, b.dropped_by_reason),
        "signals": {name: _drift(a.signals[name], b.signals[name]) for name in a.signals if name in b.signals},
    }


def kolmogorov_smirnov(a: Array, b: Array) -> float:
    """The largest difference between the two empirical distribution functions, from 0 (equal) to 1 (disjoint)."""
    points = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(side), points, "right") / len(side) for side in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def markdown(result: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    a, b = result["a"], result["b"]
    lines = [
        f"# Data of {a} and {b}",
        "",
        f"{result['documents']['a']:,} documents in {a}, {result['documents']['b']:,} in {b}: "
        f"{result['new']['number']:,} new, {result['vanished']['number']:,} vanished, "
        f"{result['changed']['number']:,} with another text.",
    ]
    for name in ("sources", "languages", "dropped_by_source", "dropped_by_reason"):
        rows = [(key, own["a"], own["b"], f"{own['a'] - own['b']:+,}") for key, own in result[name].items()]
        lines += ["", f"## {name.replace('_', ' ').capitalize()}", "", *table(("", a, b, "difference"), rows)]
    drift = [
        (
            name, f"{own['a']['median']:.4g}", f"{own['b']['median']:.4g}", f"{own['statistic']:.3f}",
            "drift" if own["statistic"] >= NOTABLE_DRIFT else "",
        )
        for name, own in result["signals"].items()
    ]  # fmt: skip
    columns = ("signal", f"median of {a}", f"median of {b}", "statistic", "")
    lines += ["", "## Drift of signals", "", *table(columns, drift)]
    for name in ("new", "vanished", "changed"):
        if result[name]["examples"]:
            lines += ["", f"## Some {name} documents", ""]
            lines += [f"- {cell(one['id'])}: {cell(one['text'])}" for one in result[name]["examples"]]
    return "\n".join(lines) + "\n"


def _some(keys: set[str], beginnings: Mapping[str, str]) -> dict[str, Any]:
    examples = [{"id": key, "text": beginnings[key]} for key in sorted(keys)[:MAX_EXAMPLES]]
    return {"number": len(keys), "examples": examples}


def _side_by_side(a: Counter[str], b: Counter[str]) -> dict[str, dict[str, int]]:
    keys = sorted({*a, *b}, key=lambda key: (-max(a[key], b[key]), key))
    return {str(key): {"a": a[key], "b": b[key]} for key in keys}


def _drift(a: Array, b: Array) -> dict[str, Any]:
    sides = {}
    for name, values in (("a", a), ("b", b)):
        low, median, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
        sides[name] = {"mean": float(values.mean()), "low": low, "median": median, "high": high}
    return {**sides, "statistic": kolmogorov_smirnov(a, b)}
