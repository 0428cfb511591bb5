"""Preference pairs and prompts as token files: what tokenization writes, and preference training and evaluation read.

A folder of pairs holds the lists of ids prompt/, chosen/ and rejected/, one of each per pair, with reasons.json and
lists.json. A folder of prompts holds lists of ids, metadata.json and sources.json. Every prompt ends with the header of
the assistant's message, and every answer with the end token.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks import tokens
from tasks.errors import NothingLeft
from tasks.files import read_json, write_json

Side = Literal["chosen", "rejected"]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Prompts with a chosen and a rejected answer each.

    reasons: why the chosen answer is better, "" if it is unknown. lists: [pairs], the number of the ranked list that a
    pair was made from; a pair of its own has a list of its own. num_too_long: the number of pairs that were left out.
    """

    prompts: list[tokens.Ids]
    answers: dict[Side, list[tokens.Ids]]
    reasons: list[str]
    lists: Indices
    num_too_long: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def sequence(self, index: int, side: Side) -> tokens.Ids:
        """The prompt of pair `index` followed by its answer of that side, as one array."""
        return np.concatenate((self.prompts[index], self.answers[side][index]))

    def mismatched(self) -> list[tokens.Ids]:
        """For each prompt an answer that does not belong to it: the chosen answer of the next pair."""
        return [*self.answers["chosen"][1:], self.answers["chosen"][0]]

    def answer_lengths(self, side: Side) -> Indices:
        """The number of tokens of each answer of that side: [pairs]."""
        return np.array([len(ids) for ids in self.answers[side]], np.int64)

    def lengths(self) -> Indices:
        """The number of tokens of the longer sequence (prompt and answer) of each pair: [pairs]."""
        prompts = np.array([len(ids) for ids in self.prompts], np.int64)
        return prompts + np.maximum(self.answer_lengths("chosen"), self.answer_lengths("rejected"))


def write_pairs(
    folder: Path,
    columns: Mapping[str, Sequence[tokens.Ids]],
    reasons: Sequence[str],
    lists: Sequence[str | None],
    vocab_size: int,
) -> None:
    """Write a folder of pairs.

    columns: ids by "prompt", "chosen" and "rejected". lists: the name of the ranked list that a pair was made from;
    None for a pair of its own.
    """
    for name in ("prompt", "chosen", "rejected"):
        tokens.write_ragged(folder / name, columns[name], vocab_size)
    write_json(folder / "reasons.json", list(reasons))
    write_json(folder / "lists.json", list(lists))


def read_pairs(folder: Path, max_length: int | None = None) -> Pairs:
    """Read a folder of pairs, without those longer than `max_length` tokens (see `Pairs.lengths`).

    Raises BadInput if files are missing, NothingLeft if no pair remains.
    """
    prompts, chosen, rejected = (tokens.read_ragged(folder / name) for name in ("prompt", "chosen", "rejected"))
    lengths = np.maximum(np.diff(chosen.offsets), np.diff(rejected.offsets)) + np.diff(prompts.offsets)
    kept = np.flatnonzero(lengths <= (np.inf if max_length is None else max_length)).tolist()
    if len(kept) == 0:
        problem = f"all {len(prompts)} are longer than {max_length} tokens" if len(prompts) else "there are none"
        raise NothingLeft(f"no preference pair can be used in {folder}: {problem}")
    reasons, lists = read_json(folder / "reasons.json"), np.arange(len(prompts))
    if (folder / "lists.json").is_file():  # token files of older versions have none
        _, lists = np.unique(_list_names(read_json(folder / "lists.json")), return_inverse=True)
    answers: dict[Side, list[tokens.Ids]] = {
        "chosen": [chosen[i] for i in kept],
        "rejected": [rejected[i] for i in kept],
    }
    return Pairs(
        [prompts[i] for i in kept],
        answers,
        [reasons[i] for i in kept],
        lists[kept].astype(np.int64),
        len(prompts) - len(kept),
    )


def read_pairs_if_any(folder: Path, max_length: int | None = None) -> Pairs | None:
    """As `read_pairs`, but None if no pair remains."""
    try:
        return read_pairs(folder, max_length)
    except NothingLeft:
        return None


def _list_names(lists: Sequence[str | None]) -> list[str]:
    """A name for the list of every pair; a pair without one gets a name that no other pair has."""
    return [f"list {name}" if name else f"pair {index}" for index, name in enumerate(lists)]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts to be answered. metadata: that of each record, with `text`, the user's last message."""

    ids: list[tokens.Ids]
    metadata: list[dict[str, Any]]
    num_too_long: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int]) -> "Prompts":
        """The prompts with these numbers, in this order."""
        return Prompts([self.ids[i] for i in indices], [self.metadata[i] for i in indices])

    def evenly_spaced(self, max_prompts: int | None) -> "Prompts":
        """At most `max_prompts` prompts, evenly spaced from the first to the last; None keeps all."""
        if max_prompts is None or max_prompts >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, max_prompts).round().astype(int).tolist())


def write_prompts(
    folder: Path,
    ids: Sequence[tokens.Ids],
    metadata: Sequence[Mapping[str, Any]],
    vocab_size: int,
    sources: Sequence[str] = (),
    preference_sources: Collection[str] = (),
) -> None:
    """Write a folder of prompts; each mapping in `metadata` includes `text`, the user's last message.

    sources: the source of each prompt. preference_sources: the sources that have preferences, in any split.
    """
    tokens.write_ragged(folder, ids, vocab_size)
    write_json(folder / "metadata.json", list(metadata))
    by_prompt = list(sources or [""] * len(ids))
    write_json(folder / "sources.json", {"of_prompts": by_prompt, "with_preferences": sorted(preference_sources)})


def read_prompts(folder: Path, max_length: int | None = None, sources: Sequence[str] | None = ()) -> Prompts:
    """Read a folder of prompts, without those longer than `max_length` tokens.

    sources: read only prompts of these; empty reads all; None reads those of the sources that have preferences, because
    a reward model knows only these, or all if no source has any. Raises BadInput if files are missing, NothingLeft if
    no prompt remains.
    """
    ids, metadata = tokens.read_ragged(folder), read_json(folder / "metadata.json")
    known = read_json(folder / "sources.json")
    source_names = known["of_prompts"]
    requested = known["with_preferences"] if sources is None else sources
    of_sources = [i for i, name in enumerate(source_names) if not requested or name in requested]
    kept = [i for i in of_sources if max_length is None or len(ids[i]) <= max_length]
    if not kept:
        available = ", ".join(sorted(set(source_names))) or "none"
        limit = "" if max_length is None else f", and none of these has at most {max_length} tokens"
        raise NothingLeft(
            f"no prompt can be used in {folder}: of {len(metadata)} prompts, {len(of_sources)} come from the requested "
            f"sources (requested: {', '.join(requested) or 'any'}; available: {available}){limit}"
        )
    return Prompts([ids[i] for i in kept], [metadata[i] for i in kept], len(of_sources) - len(kept))
