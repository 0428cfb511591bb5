"""Records that a foreign chat template refuses: their ids and reasons in <tokens>/quarantine/<kind>.jsonl, and counts.

A template refuses, for example, a system message (Gemma 1 and 2) or roles that do not alternate. Before a record is
refused, the encoder tries to join messages (see tasks/chat_layout.py); such records are counted, too.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tasks.conversations import Message
from tasks.tokenization.chat import Encoder, Refusals


class RefusalLog:
    """The refused records of one kind. Use it as a context manager; without refusals, there is no file.

    columns: what a table must have besides the columns that are encoded.
    """

    def __init__(self, encoder: Encoder, folder: Path, kind: str) -> None:
        self.columns = ("id",) if encoder.has_foreign_template else ()
        self._encoder, self._path = encoder, folder / "quarantine" / f"{kind}.jsonl"
        self._lines: list[str] = []
        self._num_refused, self._num_joined = Counter[str](), Counter[str]()

    def __enter__(self) -> "RefusalLog":
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(self._lines), encoding="utf-8")

    def accepted(self, split: str, rows: pa.Table, refused: Refusals) -> list[bool]:
        """Note the refused rows of a table, by their indices; return for each row whether it was accepted."""
        for index, reason in refused.items():
            self._add(split, rows["id"][index].as_py(), reason)
        self._count_joined(split)
        return [index not in refused for index in range(len(rows))]

    def accepts_prompt(self, split: str, record_id: str | None, prompt: Sequence[Message]) -> bool:
        """Return whether the template accepts the prompt of a record; otherwise note the record."""
        reason = self._encoder.refusal(prompt)
        if reason is not None:
            self._add(split, str(record_id), reason)
        return reason is None

    def counts(self, split: str) -> dict[str, int]:
        """Return the numbers of refused records and of records with joined messages, if the template is foreign."""
        self._count_joined(split)
        if not self.columns:
            return {}
        return {"num_refused": self._num_refused[split], "num_joined": self._num_joined[split]}

    def _add(self, split: str, record_id: str, reason: str) -> None:
        self._num_refused[split] += 1
        self._lines.append(json.dumps({"id": record_id, "split": split, "reason": reason}, ensure_ascii=False) + "\n")

    def _count_joined(self, split: str) -> None:
        self._num_joined[split] += self._encoder.num_joined
        self._encoder.num_joined = 0
