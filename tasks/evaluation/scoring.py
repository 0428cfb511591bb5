"""Forward passes of causal models: nats per token, and divergences of answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from tasks.answers import answer_logits, answer_states, batches_by_length, collate, logit_slices
from tasks.causal.backbone import last_hidden
from tasks.tokens import Stream

FloatArray = npt.NDArray[np.float64]


@torch.inference_mode()
def stream_nats(
    model: Any, stream: Stream, rows: Sequence[int], sequence_length: int, batch_size: int
) -> list[FloatArray]:
    """-ln p of every target position of the given rows of a stream, each [length of the row - 1].

    The model reads the rows by the same code and with the same masks as in training.
    """
    nats_of_rows: list[FloatArray] = []
    for batch in _batches_of_equal_length([stream.row(row, sequence_length)[:2] for row in rows], batch_size):
        ids = torch.from_numpy(np.stack([row[0] for row in batch]).astype(np.int64)).to(model.device)
        positions = torch.from_numpy(np.stack([row[1] for row in batch]).astype(np.int64)).to(model.device)
        # A document that continues from the previous row begins anew, because the model cannot see what precedes it.
        positions -= positions[:, :1] * ((positions == 0).cumsum(1) == 0)
        hidden = last_hidden(model, ids[:, :-1], positions[:, :-1]).flatten(0, 1)
        targets = ids[:, 1:].flatten()
        parts = [
            F.cross_entropy(answer_logits(model, hidden[part]).float(), targets[part], reduction="none")
            for part in logit_slices(model, len(hidden))
        ]
        nats_of_rows += list(torch.cat(parts).view(len(batch), -1).cpu().double().numpy())
    return nats_of_rows


@torch.inference_mode()
def answer_divergences(
    policy: Any, reference: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], batch_size: int
) -> tuple[FloatArray, FloatArray]:
    """KL(policy | reference) of each answer in nats, two unbiased estimates, each [num_answers].

    The answers must be sampled from the policy at temperature 1.

    The first estimate sums the exact divergence of the two next-token distributions along the answer
    (Rao-Blackwellized, arXiv:2504.10637). It is never negative and has the smaller variance. The second one is
    ln p_policy(answer) - ln p_reference(answer), which PPO implementations call "k1".
    """
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    estimates = np.zeros((2, len(sequences)))
    for rows in batches_by_length([len(sequence) for sequence in sequences], batch_size):
        batch = collate([sequences[row] for row in rows], [len(prompts[row]) for row in rows], 0, policy.device)
        states = [answer_states(model, batch) for model in (policy, reference)]
        sums = torch.zeros(2, len(rows), device=policy.device)
        for tokens in logit_slices(policy, len(batch.targets)):
            models = zip((policy, reference), states, strict=True)
            policy_log_probs, reference_log_probs = (
                answer_logits(m, s[tokens]).float().log_softmax(-1) for m, s in models
            )
            differences = policy_log_probs - reference_log_probs
            of_targets = differences.gather(1, batch.targets[tokens, None])[:, 0]
            # batch.owner is the index of the answer that each token belongs to.
            sums[0].index_add_(0, batch.owner[tokens], (policy_log_probs.exp() * differences).sum(-1))
            sums[1].index_add_(0, batch.owner[tokens], of_targets)
        estimates[:, rows] = sums.double().cpu().numpy()
    return estimates[0], estimates[1]


def _batches_of_equal_length(rows: Sequence[Any], batch_size: int) -> list[list[Any]]:
    """Consecutive rows of equal length in batches; only the last row of a stream is shorter than the others."""
    batches: list[list[Any]] = []
    for row in rows:
        if batches and len(batches[-1]) < batch_size and len(batches[-1][0][0]) == len(row[0]):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
