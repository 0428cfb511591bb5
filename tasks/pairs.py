"""Preference pairs and prompts as token files: what tokenization writes, and preference training and evaluation read.

A folder of pairs holds the lists of ids prompt/, chosen/ and rejected/, one of each per pair, with reasons.json and
lists.json. Its folder unpaired/ holds answers that were judged alone: prompt/, answer/ and is_good.json. A folder of
prompts holds lists of ids, metadata.json and sources.json. Every prompt ends with the header of the assistant's
message, and every answer with the end token and what the chat template puts after it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks import tokens
from tasks.errors import BadInput, NothingLeft
from tasks.files import read_json, write_json, write_json_list

Side = Literal["chosen", "rejected"]
UNPAIRED = "unpaired"  # the folder of answers that were judged alone, in a folder of pairs
Indices = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


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

    def two_answers(self) -> tuple[list[tokens.Ids], list[tokens.Ids]]:
        """The chosen and the rejected answers."""
        return self.answers["chosen"], self.answers["rejected"]

    def answer_lengths(self, side: Side) -> Indices:
        """The number of tokens of each answer of that side: [pairs]."""
        return np.array([len(ids) for ids in self.answers[side]], np.int64)

    def lengths(self) -> Indices:
        """The number of tokens of the longer sequence (prompt and answer) of each pair: [pairs]."""
        prompts = np.array([len(ids) for ids in self.prompts], np.int64)
        return prompts + np.maximum(self.answer_lengths("chosen"), self.answer_lengths("rejected"))


@dataclass(frozen=True, slots=True)
class JudgedAnswers:
    """Prompts with one answer each, judged as good or bad by itself: of pairs and of unpaired rows.

    mismatched: for each prompt an answer to another prompt. num_too_long: the number of answers that were left out.
    num_unpaired: how many answers are from unpaired rows; they follow those of the pairs.
    """

    prompts: list[tokens.Ids]
    answers: list[tokens.Ids]
    mismatched: list[tokens.Ids]
    is_good: BoolArray
    num_too_long: int = 0
    num_unpaired: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def two_answers(self) -> tuple[list[tokens.Ids], list[tokens.Ids]]:
        """The judged and the mismatched answers."""
        return self.answers, self.mismatched

    def lengths(self) -> Indices:
        """The number of tokens of the longer sequence (prompt and answer) of each prompt: [prompts]."""
        rows = zip(self.prompts, self.answers, self.mismatched, strict=True)
        return np.array([len(prompt) + max(len(one), len(other)) for prompt, one, other in rows], np.int64)


def write_pairs(
    folder: Path,
    columns: Mapping[str, Iterable[tokens.Ids]],
    reasons: Sequence[str],
    lists: Sequence[str | None],
    vocab_size: int,
) -> int:
    """Write a folder of pairs; return the number of their tokens.

    columns: ids by "prompt", "chosen" and "rejected"; each is read once, in this order. lists: the name of the ranked
    list that a pair was made from; None for a pair of its own.
    """
    names = ("prompt", "chosen", "rejected")
    num_tokens = sum(tokens.write_ragged(folder / name, columns[name], vocab_size) for name in names)
    write_json(folder / "reasons.json", list(reasons))
    write_json(folder / "lists.json", list(lists))
    return num_tokens


class PairWriter:
    """A folder of pairs with its folder unpaired/, written part by part. Files are complete when the block ends."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.folder = folder
        names = ("prompt", "chosen", "rejected", f"{UNPAIRED}/prompt", f"{UNPAIRED}/answer")
        self._writers = {name: tokens.RaggedWriter(folder / name, vocab_size) for name in names}
        self.reasons, self.lists, self.is_good = list[str](), list[str | None](), list[bool]()

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
        write_json(self.folder / "reasons.json", self.reasons)
        write_json(self.folder / "lists.json", self.lists)
        write_json(self.folder / UNPAIRED / "is_good.json", self.is_good)

    @property
    def num_tokens(self) -> int:
        """The number of tokens so far."""
        return sum(writer.num_tokens for writer in self._writers.values())

    def add_pairs(
        self, columns: Mapping[str, Sequence[tokens.Ids]], reasons: Sequence[str], lists: Sequence[str | None]
    ) -> None:
        """Append pairs. columns: ids by "prompt", "chosen" and "rejected"; lists: see `write_pairs`."""
        for name, ids in columns.items():
            self._writers[name].append(ids)
        self.reasons += reasons
        self.lists += lists

    def add_unpaired(
        self, prompts: Sequence[tokens.Ids], answers: Sequence[tokens.Ids], is_good: Sequence[bool]
    ) -> None:
        """Append answers that were judged alone."""
        self._writers[f"{UNPAIRED}/prompt"].append(prompts)
        self._writers[f"{UNPAIRED}/answer"].append(answers)
        self.is_good += is_good


def read_pairs(folder: Path, max_length: int | None = None) -> Pairs:
    """Read a folder of pairs, without those longer than `max_length` tokens (see `Pairs.lengths`).

    Raises BadInput if files are missing, NothingLeft if no pair remains.
    """
    prompts, chosen, rejected = (tokens.read_ragged(folder / name) for name in ("prompt", "chosen", "rejected"))
    lengths = np.maximum(np.diff(chosen.offsets), np.diff(rejected.offsets)) + np.diff(prompts.offsets)
    kept = np.flatnonzero(lengths <= (np.inf if max_length is None else max_length)).tolist()
    if len(kept) == 0:
        problem = f"all {len(prompts)} are longer than {max_length} tokens" if len(prompts) else "there are none"
        if num_unpaired := count_unpaired(folder):
            problem += f", and the {num_unpaired} answers that were judged alone are used only by dpo with loss: kto"
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


def write_unpaired(
    folder: Path, prompts: Iterable[tokens.Ids], answers: Iterable[tokens.Ids], is_good: Sequence[bool], vocab_size: int
) -> int:
    """Write answers that were judged alone to the folder unpaired/ of a folder of pairs; return the number of tokens.

    Those of their prompts count, too. The prompts are read first, then the answers.
    """
    num_tokens = tokens.write_ragged(folder / UNPAIRED / "prompt", prompts, vocab_size)
    num_tokens += tokens.write_ragged(folder / UNPAIRED / "answer", answers, vocab_size)
    write_json(folder / UNPAIRED / "is_good.json", list(is_good))
    return num_tokens


def count_unpaired(folder: Path) -> int:
    """The number of answers in a folder of pairs that were judged alone."""
    path = folder / UNPAIRED / "is_good.json"
    return len(read_json(path)) if path.is_file() else 0  # token files of older versions have none


def unused_unpaired(folder: Path, stage: str, reason: str) -> tuple[dict[str, int], list[str]]:
    """The count and the note for the report of a stage that uses pairs only; both are empty if nothing is unused.

    folder: the folder of the splits; those for training and validation are counted.
    """
    count = sum(count_unpaired(folder / split) for split in ("train", "validation"))
    if not count:
        return {}, []
    note = f"{stage}: {count} answers that were judged alone are not used, because {reason}; dpo with loss: kto uses"
    return {"unused_unpaired": count}, [f"{note} them"]


def read_judged(folder: Path, max_length: int | None = None) -> JudgedAnswers:
    """Read the answers of the pairs one by one, then the unpaired ones, without those longer than `max_length` tokens.

    The length is that of the prompt with the answer. Raises BadInput if files are missing, NothingLeft if no answer
    remains.
    """
    prompts, chosen, rejected = (tokens.read_ragged(folder / name) for name in ("prompt", "chosen", "rejected"))
    rows: list[tuple[tokens.Ids, tokens.Ids, bool]] = []
    for i in range(len(prompts)):
        rows += [(prompts[i], chosen[i], True), (prompts[i], rejected[i], False)]
    num_paired = len(rows)
    if count_unpaired(folder):
        questions, answers = (tokens.read_ragged(folder / UNPAIRED / name) for name in ("prompt", "answer"))
        is_good = read_json(folder / UNPAIRED / "is_good.json")
        rows += [(questions[i], answers[i], is_good[i]) for i in range(len(questions))]
    fits = [max_length is None or len(prompt) + len(answer) <= max_length for prompt, answer, _ in rows]
    kept = [row for row, is_short in zip(rows, fits, strict=True) if is_short]
    if not kept:
        problem = f"all {len(rows)} are longer than {max_length} tokens" if rows else "there are none"
        raise NothingLeft(f"no judged answer can be used in {folder}: {problem}")
    return JudgedAnswers(
        [prompt for prompt, _, _ in kept],
        [answer for _, answer, _ in kept],
        _mismatched(kept, max_length),
        np.array([good for _, _, good in kept], np.bool_),
        len(rows) - len(kept),
        sum(fits[num_paired:]),
    )


def read_judged_if_any(folder: Path, max_length: int | None = None) -> JudgedAnswers | None:
    """As `read_judged`, but None if no answer remains."""
    try:
        return read_judged(folder, max_length)
    except NothingLeft:
        return None


def _mismatched(rows: Sequence[tuple[tokens.Ids, tokens.Ids, bool]], max_length: int | None) -> list[tokens.Ids]:
    """For each row the next answer, cyclically, whose prompt is another one, cut to `max_length` with the row's prompt.

    If all prompts are equal, it is the answer of the next row.
    """
    count = len(rows)
    next_other = [(row + 1) % count for row in range(count)]
    has_prompt_of_next = [np.array_equal(rows[row][0], rows[other][0]) for row, other in enumerate(next_other)]
    if not all(has_prompt_of_next):
        # Two rounds backward: in the second one, the rows at the end of the list know those at its beginning.
        for row in (*reversed(range(count)), *reversed(range(count))):
            if has_prompt_of_next[row]:
                next_other[row] = next_other[(row + 1) % count]
    limits = [None if max_length is None else max_length - len(prompt) for prompt, _, _ in rows]
    return [rows[other][1][:limit] for other, limit in zip(next_other, limits, strict=True)]


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
    ids: Iterable[tokens.Ids],
    metadata: Iterable[Mapping[str, Any]],
    vocab_size: int,
    sources: Sequence[str] = (),
    preference_sources: Collection[str] = (),
) -> int:
    """Write a folder of prompts; return the number of their tokens.

    metadata: a mapping for each prompt, with `text`, the user's last message. sources: the source of each prompt.
    preference_sources: the sources that have preferences, in any split. All ids are read before metadata and sources.
    """
    num_tokens = tokens.write_ragged(folder, ids, vocab_size)
    num_prompts = write_json_list(folder / "metadata.json", metadata)
    by_prompt = list(sources or [""] * num_prompts)
    write_json(folder / "sources.json", {"of_prompts": by_prompt, "with_preferences": sorted(preference_sources)})
    return num_tokens


def read_prompts(folder: Path, max_length: int | None = None, sources: Sequence[str] | None = ()) -> Prompts:
    """Read a folder of prompts, without those longer than `max_length` tokens.

    sources: read only prompts of these; empty reads all; None reads those of the sources that have preferences, because
    a reward model knows only these, or all if no source has any. Raises BadInput if files are missing, NothingLeft if
    no prompt remains.
    """
    ids, metadata = tokens.read_ragged(folder), read_json(folder / "metadata.json")
    if not (folder / "sources.json").is_file():
        raise BadInput(
            f"{folder / 'sources.json'} is missing: an older version of Athanor wrote these token files. Run the stage "
            "tokenization again."
        )
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
