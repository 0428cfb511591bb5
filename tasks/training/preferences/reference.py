"""The reference: a frozen copy of the policy from before preference training, and its log-probabilities of answers.

DPO compares the policy with the reference on the same pairs in every epoch. Because the reference never changes, its
log-probabilities are computed once and stored in a file; the model itself is not needed during the training.
"""

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.answers import AnswerBatch, Ids, answer_logits, answer_states, log_probabilities, token_log_probs
from tasks.causal.shared_prompts import collate_answers
from tasks.training.parallel import processes
from tasks.training.preferences.order import Indices, micro_batches

ROWS_PER_BATCH = 128


class Reference:
    """A frozen copy of `policy` in `dtype`. For a policy with an adapter it is the base model, which needs no copy."""

    def __init__(self, policy: Any, dtype: torch.dtype = torch.float32) -> None:
        self._adapted = policy if hasattr(policy, "disable_adapter") else None
        self._copy = None if self._adapted else copy.deepcopy(policy).requires_grad_(False).to(dtype).eval()

    @contextmanager
    def model(self) -> Iterator[Any]:
        """Yield the reference model. A policy with an adapter must not be trained in this block: its adapter is off."""
        if self._adapted is None:
            yield self._copy
        else:
            with self._adapted.disable_adapter():
                yield self._adapted

    def log_probabilities(
        self, sequences: Sequence[Ids], prompt_lengths: Sequence[int], *, pad_id: int, temperature: float = 1.0
    ) -> list[Tensor]:
        """log p of every answer token under the reference, one float32 tensor per sequence."""
        with self.model() as model:
            return log_probabilities(model, sequences, prompt_lengths, pad_id=pad_id, temperature=temperature)


class TwoAnswers(Protocol):
    """Prompts with two answers each: chosen and rejected, or a judged answer and a mismatched one."""

    @property
    def prompts(self) -> Sequence[Ids]:
        """The prompts."""

    def two_answers(self) -> tuple[Sequence[Ids], Sequence[Ids]]:
        """The first and the second answers, in the order of the prompts."""

    def lengths(self) -> Indices:
        """The number of tokens of each prompt with its longer answer."""

    def __len__(self) -> int:
        """The number of prompts."""


Rows = TypeVar("Rows", bound=TwoAnswers)


@dataclass(frozen=True, slots=True)
class WithReference(Generic[Rows]):
    """Prompts with two answers and the reference's log-probabilities of these answers, float32 [2, prompts]."""

    rows: Rows
    reference: npt.NDArray[np.float32]

    def batch(self, model: Any, indices: Sequence[int], pad_id: int) -> AnswerBatch:
        """These prompts with both answers in the order of the rows of `reference`, as `model` reads them."""
        first, second = self.rows.two_answers()
        answers = [[first[i], second[i]] for i in indices]
        return collate_answers(model, [self.rows.prompts[i] for i in indices], answers, pad_id)


def add_reference(
    rows: Rows, model: Any, dtype: torch.dtype, path: Path, pad_id: int, used: Indices | None = None
) -> WithReference[Rows]:
    """Add the log-probabilities of `model` in `dtype`, the precision of the training, and store them in `path`.

    used: the rows that the training reads; None: all. The log-probabilities of the others are NaN.

    An existing file that has these rows is used without a check, because the name of its folder of checkpoints contains
    a hash of everything that the numbers depend on.
    """
    # In another precision than that of the training, the first log-ratios would not be 0 although policy and reference
    # are the same weights.
    size, used = (2, len(rows)), np.arange(len(rows)) if used is None else used
    stored = _stored(path)
    if stored is None or stored.shape != size or np.isnan(stored[:, used]).any():
        empty = WithReference(rows, np.full(size, np.nan, np.float32))
        stored = reference_log_probs(empty, Reference(model, dtype), pad_id, used)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each process writes a file of its own and renames it, so that `path` is complete whenever it exists.
        temporary = path.with_suffix(f".{processes.rank()}.tmp.npy")
        np.save(temporary, stored)
        temporary.replace(path)
    return WithReference(rows, stored)


@torch.no_grad()
def reference_log_probs(
    answers: WithReference[Rows], reference: Reference, pad_id: int, used: Indices | None = None
) -> npt.NDArray[np.float32]:
    """The reference's log-probability of each answer, the sum over its tokens: float32 [2, prompts].

    used: the prompts whose answers are measured; None: all. The numbers of the others are NaN.
    """
    sums = torch.full(answers.reference.shape, torch.nan)
    used = np.arange(len(answers.rows)) if used is None else used
    with reference.model() as model:
        for part in micro_batches(used, answers.rows.lengths()[used], ROWS_PER_BATCH):
            batch = answers.batch(model, part.tolist(), pad_id)
            log_probs = token_log_probs(answer_logits(model, answer_states(model, batch)), batch.targets)
            sums[:, part] = batch.sum_by_answer(log_probs).view(len(part), -1).T.cpu()
    return sums.numpy()


def _stored(path: Path) -> npt.NDArray[np.float32] | None:
    try:
        return np.asarray(np.load(path), np.float32)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"{path} cannot be read and is computed again: {error}", file=sys.stderr, flush=True)
        return None
