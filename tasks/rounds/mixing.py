"""The pairs of a round: those of its own votes for the policy, and these with a replay for the reward model."""

import json
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks import tables
from tasks.conversations import CONVERSATIONS, PREFERENCES
from tasks.errors import NothingLeft
from tasks.files import read_json

REPLAY = "replay"  # a data folder inside that of the round


def divide(
    folder: Path, new_ids: set[str], base: Path, replay_share: float, seed: int, held_out: Collection[str] = ()
) -> dict[str, int]:
    """Write the pairs of the round to preferences/new, and those with a replay to replay/preferences/curated.

    folder: the round, whose preferences/curated has the pairs of all rounds; new_ids: the actions of this round. base:
    the table of preferences of the pipeline, which may be missing. replay_share: older pairs per new pair, taken in
    equal parts from earlier rounds and from `base`. held_out: questions on which models are measured; pairs about them
    are left out. Returns counts. Raises NothingLeft without a new pair.
    """
    all_rows = tables.read(folder / "preferences/curated").to_pylist()
    rows = [row for row in all_rows if _only_question(row) not in held_out]
    new = [row for row in rows if not new_ids.isdisjoint(json.loads(row["metadata"]).get("actions", [row["id"]]))]
    if not new:
        raise NothingLeft(
            f"none of the {len(new_ids)} votes of {folder} gives a pair; see its reports/ingestion.json. "
            f"{len(all_rows) - len(rows)} pairs are about held-out questions, on which models are measured."
        )
    new_rows = {row["id"] for row in new}
    older = [row for row in rows if row["id"] not in new_rows]
    of_base = _train_rows(base)
    count, rng = round(replay_share * len(new)), random.Random(seed)
    first_part = rng.sample(older, min(len(older), max(count - count // 2, count - len(of_base))))
    second_part = rng.sample(of_base, min(len(of_base), count - len(first_part)))
    _write(folder / "preferences/new", new)
    _write(folder / REPLAY / "preferences/curated", [*new, *first_part, *second_part])
    return {
        "new_pairs": len(new), "replayed_votes": len(first_part), "replayed_pairs": len(second_part),
        "held_out_pairs": len(all_rows) - len(rows),
    }  # fmt: skip


def held_out_questions(tokens: Path) -> set[str]:
    """The questions of the validation and test splits of the pipeline that are no part of a longer conversation."""
    questions: set[str] = set()
    for split in ("validation", "test"):
        file = tokens / "prompts" / split / "metadata.json"
        for metadata in read_json(file) if file.is_file() else ():
            if metadata.get("turn", 1) == 1 and "text" in metadata:
                questions.add(str(metadata["text"]))
    return questions


def write_conversations(folder: Path, conversations: Sequence[dict[str, Any]]) -> None:
    """Write rows of CONVERSATIONS as the curated table of a round."""
    with tables.Writer(folder, CONVERSATIONS) as writer:
        for row in conversations:
            writer.add_row(row)


def _only_question(row: dict[str, Any]) -> str | None:
    """The question of a pair; None if the prompt is a longer conversation."""
    contents = [message["content"] for message in row["prompt"] if message["role"] != "system"]
    return contents[0] if len(contents) == 1 else None


def _train_rows(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        return []
    table = tables.read(folder)
    is_train = pa.compute.equal(table["split"], "train")
    return list(table.filter(is_train).to_pylist())


def _write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = {field.name for field in PREFERENCES}
    with tables.Writer(folder, PREFERENCES) as writer:
        for row in rows:
            writer.add_row({name: value for name, value in row.items() if name in names})
