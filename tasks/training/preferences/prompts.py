"""Prompts that a policy answers while it is trained or measured, with what is known about each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks import tokens
from tasks.errors import NothingLeft
from tasks.files import read_json


@dataclass(frozen=True, slots=True)
class Prompts:
    """ids: each ends with the assistant's header. metadata: the record's, with `text`, what the user said."""

    ids: list[tokens.Ids]
    metadata: list[dict[str, Any]]
    num_too_long: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int]) -> "Prompts":
        """The prompts of these numbers, in this order."""
        return Prompts([self.ids[i] for i in indices], [self.metadata[i] for i in indices])

    def spread(self, count: int | None) -> "Prompts":
        """At most `count` prompts, evenly from the first to the last; None: all."""
        if count is None or count >= len(self):
            return self
        return self.take(np.linspace(0, len(self) - 1, count).round().astype(int).tolist())


def read(folder: Path, max_length: int, tasks: Sequence[str] = ()) -> Prompts:
    """The prompts that tokenization wrote into `folder`, of at most `max_length` tokens.

    `tasks`: only those whose metadata name one of these; none = all. Raises BadInput where the files are missing,
    NothingLeft where no prompt is left.
    """
    ids, metadata = tokens.read_ragged(folder), read_json(folder / "metadata.json")
    wanted = [i for i, about in enumerate(metadata) if not tasks or about.get("task") in tasks]
    short = [i for i in wanted if len(ids[i]) <= max_length]
    if not short:
        found = ", ".join(sorted({str(about.get("task")) for about in metadata})) or "none"
        raise NothingLeft(
            f"no prompt to use in {folder}: of {len(metadata)} prompts, {len(wanted)} are of the tasks asked for "
            f"({', '.join(tasks) or 'any'}; there: {found}) and none of these has at most {max_length} tokens"
        )
    return Prompts([ids[i] for i in short], [metadata[i] for i in short], len(wanted) - len(short))
