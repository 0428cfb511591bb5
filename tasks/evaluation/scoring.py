"""Forward passes whose numbers the metrics count: nats per token, log-likelihoods, rewards, divergences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.answers import answer_logits, answer_states, collate, log_probabilities
from tasks.tokens import Stream

Floats = npt.NDArray[np.float64]
HEAD_TOKENS = 2048  # whose distributions over the whole vocabulary are held at once


@torch.inference_mode()
def stream_nats(model: Any, stream: Stream, rows: Sequence[int], sequence_length: int, batch_size: int) -> list[Floats]:
    """-ln p of every target position of the chosen rows of a stream, each [length of the row - 1].

    As in training: positions restart with each document and no mask is given, so that documents do not see each other.
    """
    found: list[Floats] = []
    for batch in _equally_long([stream.row(row, sequence_length)[:2] for row in rows], batch_size):
        ids = torch.from_numpy(np.stack([row[0] for row in batch]).astype(np.int64)).to(model.device)
        positions = torch.from_numpy(np.stack([row[1] for row in batch]).astype(np.int64)).to(model.device)
        logits = model(input_ids=ids[:, :-1], position_ids=positions[:, :-1], use_cache=False).logits
        nats = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        found += list(nats.view(len(batch), -1).cpu().double().numpy())
    return found


def answer_log_likelihoods(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], batch_size: int
) -> Floats:
    """ln p(answer | prompt) of each pair, summed over the answer's tokens, [num_pairs]."""
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    lengths = [len(prompt) for prompt in prompts]
    found = log_probabilities(model, sequences, lengths, batch_size=batch_size)
    return np.array([float(tokens.double().sum()) for tokens in found])


@torch.inference_mode()
def answer_divergences(
    policy: Any, reference: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], batch_size: int
) -> tuple[Floats, Floats]:
    """KL(policy | reference) of each answer in nats, two unbiased estimates, each [num_answers].

    The answers are sampled from the policy at temperature 1. First the Rao-Blackwellized estimate: the exact divergence
    of the two next-token distributions, summed along the answer (arXiv:2504.10637); it is never negative and varies
    less. Second the plain one: ln p_policy(answer) - ln p_reference(answer), "k1".
    """
    exact, plain = [], []
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    lengths = [len(prompt) for prompt in prompts]
    for start in range(0, len(sequences), batch_size):
        part = slice(start, start + batch_size)
        batch = collate(sequences[part], lengths[part], 0, policy.device)
        states = [answer_states(model, batch) for model in (policy, reference)]
        sums = torch.zeros(2, len(batch.lengths), device=policy.device)
        for begin in range(0, len(batch.targets), HEAD_TOKENS):
            here = slice(begin, begin + HEAD_TOKENS)
            models = zip((policy, reference), states, strict=True)
            ours, theirs = (answer_logits(m, s[here]).float().log_softmax(-1) for m, s in models)
            drawn = (ours - theirs).gather(1, batch.targets[here, None])[:, 0]
            sums[0].index_add_(0, batch.owner[here], (ours.exp() * (ours - theirs)).sum(-1))
            sums[1].index_add_(0, batch.owner[here], drawn)
        exact.append(sums[0])
        plain.append(sums[1])
    return _gather(exact), _gather(plain)


@torch.inference_mode()
def reward_scores(model: Any, sequences: Sequence[list[int]], pad_id: int, batch_size: int) -> Floats:
    """The scalar head's score of each sequence, [num_sequences]."""
    scores = []
    for start in range(0, len(sequences), batch_size):
        ids, mask = _padded(sequences[start : start + batch_size], pad_id, model.device)
        scores.append(model(input_ids=ids, attention_mask=mask).logits[:, 0])
    return _gather(scores)


def _padded(sequences: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
    return ids.to(device), mask.to(device)


def _equally_long(rows: Sequence[Any], batch_size: int) -> list[list[Any]]:
    made: list[list[Any]] = []
    for row in rows:
        if made and len(made[-1]) < batch_size and len(made[-1][0][0]) == len(row[0]):
            made[-1].append(row)
        else:
            made.append([row])
    return made


def _gather(parts: Sequence[Tensor]) -> Floats:
    return np.concatenate([part.double().cpu().numpy() for part in parts])
