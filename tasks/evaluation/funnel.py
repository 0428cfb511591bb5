"""How many records each step of the pipeline has kept, by kind: from the sources to the rows of training."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import reports

KINDS = ("documents", "conversations", "preferences")
PREFIX = {"documents": ""}  # of the counts of curation; the other kinds have their own name
EXAMPLES = {"documents": "documents", "conversations": "conversations", "preferences": "pairs"}
OTHER_COUNTS = ("read", "kept")


@dataclass(frozen=True)
class Row:
    """One kind of records. tokens: of the train split; dropped: reason -> number, the most frequent first."""

    kind: str
    read: int
    kept: int
    splits: Mapping[str, int]
    tokens: int
    dropped: Mapping[str, int]


def read(folder: Path) -> list[Row]:
    """The funnel from the reports of ingestion, curation and tokenization; kinds without a record are left out."""
    ingestion, curation, tokenization = (
        _counts(folder / f"{stage}.json") for stage in ("ingestion", "curation", "tokenization")
    )
    rows = []
    for kind in KINDS:
        prefix = PREFIX.get(kind, f"{kind}_")
        num_read = int(curation.get(f"{prefix}read", ingestion.get(kind, 0)))
        if num_read:
            sizes = {
                split: int(tokenization.get(f"{kind}_{split}_num_{EXAMPLES[kind]}", 0))
                for split in ("train", "validation", "test")
            }
            tokens = int(tokenization.get(f"{kind}_train_num_tokens", 0))
            num_kept = int(curation.get(f"{prefix}kept", num_read))
            rows.append(Row(kind, num_read, num_kept, sizes, tokens, dict(_dropped(folder, curation, kind))))
    return rows


def _counts(path: Path) -> Mapping[str, Any]:
    return dict(reports.read(path).get("counts", {})) if path.is_file() else {}


def _dropped(folder: Path, curation: Mapping[str, Any], kind: str) -> Iterator[tuple[str, int]]:
    """The reasons of documents are those of the steps; other kinds have counts of their own."""
    if kind == "documents":
        steps = reports.read_csv(folder / "curation" / "funnel.csv")
        for before, after in itertools.pairwise(steps):
            if number := int(before["documents"]) - int(after["documents"]):
                yield after["step"], number
        return
    for key, number in sorted(curation.items(), key=lambda item: -item[1]):
        reason = key.removeprefix(f"{kind}_")
        if reason != key and number and reason not in OTHER_COUNTS and not reason.startswith("masked_"):
            yield reason, int(number)
