"""Cross-entropy that never holds all logits: they are computed for some hundred rows at a time, with their gradients.

With a vocabulary of 50 000, the logits of one batch and their gradients would be the largest tensors of a training
step. The same idea: Cut Cross-Entropy (arXiv:2411.09009), Liger (arXiv:2410.10989).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # a target without a loss, as in torch and transformers
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}  # logits at once; on a CPU about what its cache can hold
MIN_CHUNK = 64  # rows
CPU_ROWS = 64  # the number of rows that enters a head in bf16 on a CPU is a multiple of it
MAX_UNKNOWN_CHUNK = 256  # rows at once, if the size of the vocabulary is not known before the head is applied
MIN_REST = 1e-6  # probability of all other tokens, which is 1 minus a sum in fp32
MIN_PROBABILITY = 1e-37  # log(0) is avoided: this is close to the smallest normal number of fp32


Head = Tensor | Callable[[Tensor], Tensor]  # a matrix [vocab, width], or the function from states to logits


def filled(rows: Tensor) -> Tensor:
    """`rows` [n, width] and, for products in bf16 on a CPU, rows of zeros up to a multiple of CPU_ROWS.

    oneDNN compiles a kernel in bf16 for each new number of rows, and hardly two steps have equally many. With a
    vocabulary of 4,096 that takes 6 ms, the product 1 ms. Few rows, as in decoding, stay as they are: filling them up
    would multiply the work.
    """
    changes = rows.device.type == "cpu" and rows.dtype == torch.bfloat16 and len(rows) > CPU_ROWS
    num_missing = -len(rows) % CPU_ROWS if changes else 0
    return F.pad(rows, (0, 0, 0, num_missing)) if num_missing else rows


def next_token_loss(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy in nats over the targets that are not IGNORED, and the number of these targets.

    hidden [..., width], targets [...]. The head is applied only to positions with a target.
    """
    has_target = targets.reshape(-1) != IGNORED
    rows = hidden.reshape(-1, hidden.shape[-1])[has_target]
    row_targets = targets.reshape(-1)[has_target]
    if isinstance(head, Tensor):
        losses = linear_cross_entropy(rows, head, row_targets)
    else:
        losses = cross_entropy(rows, head, row_targets)
    return losses.sum() / max(1, len(row_targets)), len(row_targets)


def cross_entropy(rows: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    """-log softmax(head(rows))[target] of each row, in nats, [n]. The logits are computed again for the gradients."""

    def losses_of(part: Tensor, part_targets: Tensor) -> Tensor:
        logits = head(part).float()
        return logits.logsumexp(1) - logits.gather(1, part_targets[:, None])[:, 0]

    parts = [slice(start, start + MAX_UNKNOWN_CHUNK) for start in range(0, max(1, len(rows)), MAX_UNKNOWN_CHUNK)]
    if not torch.is_grad_enabled():
        return torch.cat([losses_of(rows[part], targets[part]) for part in parts])
    # Without preserve_rng_state=False, torch would copy the state of the generator for each part; no head has dropout.
    return torch.cat([
        checkpoint(losses_of, rows[part], targets[part], use_reentrant=False, preserve_rng_state=False)
        for part in parts
    ])  # fmt: skip


def divergence(rows: Tensor, head: Head, tokens: Tensor, log_probs: Tensor) -> Tensor:
    """KL(teacher | softmax(head(rows))) of each row in nats, [n], of distributions with one place for all other tokens.

    tokens, log_probs [n, k]: the most probable tokens of the teacher, and their log-probabilities. Because the others
    are summed up, the result is at most the divergence of the whole distributions.
    """

    def divergences_of(part: Tensor, part_tokens: Tensor, part_log_probs: Tensor) -> Tensor:
        logits = (part @ head.T if isinstance(head, Tensor) else head(part)).float()
        own = logits.gather(1, part_tokens) - logits.logsumexp(1, keepdim=True)
        own, teacher = _with_rest(own), _with_rest(part_log_probs.float())
        return (teacher.exp() * (teacher - own)).sum(1)

    parts = [slice(start, start + MAX_UNKNOWN_CHUNK) for start in range(0, max(1, len(rows)), MAX_UNKNOWN_CHUNK)]
    return torch.cat([
        checkpoint(
            divergences_of, rows[part], tokens[part], log_probs[part], use_reentrant=False, preserve_rng_state=False
        )
        for part in parts
    ])  # fmt: skip


def _with_rest(log_probs: Tensor) -> Tensor:
    """The log-probabilities [n, k] with that of all other tokens together, [n, k + 1]."""
    rest = (1 - log_probs.exp().sum(1, keepdim=True)).clamp_min(MIN_REST).log()
    return torch.cat([log_probs, rest], 1)


def linear_cross_entropy(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(rows @ head^T)[target] of each row, in nats, [n].

    rows [n, width], head [vocab, width], targets [n].

    The gradients are computed in the forward pass, for a loss that is the sum or the mean of the result. Therefore all
    rows must have the same weight in the loss; the backward pass checks this.
    """
    losses: Tensor = _LinearCrossEntropy.apply(rows, head, targets)  # type: ignore[no-untyped-call]
    return losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        if not any(ctx.needs_input_grad):
            return torch.cat([_losses(rows[chunk], head, targets[chunk]) for chunk in _chunks(rows, head)])
        count, rows = len(rows), filled(rows)
        # A row of zeros adds nothing to the gradient of the head, whatever its target is.
        targets = F.pad(targets, (0, len(rows) - count))
        losses = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows)
        # In fp32, because one weight of the head gets a contribution from every chunk: a sum in bf16 would lose them.
        grad_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for chunk in _chunks(rows, head):
            # One kernel, which computes in fp32 inside. The loss of a bf16 probability is off by at most 0.002.
            grad_logits = torch.softmax(rows[chunk] @ head.T, -1)
            # The gradient of cross-entropy with respect to the logits is: probabilities - one_hot(target). Elements are
            # indexed directly: on a CPU, scatter_ and scatter_add_ in bf16 take longer than the softmax.
            chunk_targets = targets[chunk]
            positions = torch.arange(len(chunk_targets), device=rows.device), chunk_targets
            probabilities = grad_logits[positions]
            losses[chunk] = -probabilities.float().clamp_min(MIN_PROBABILITY).log()
            grad_logits[positions] = probabilities - 1
            torch.mm(grad_logits, head, out=grad_rows[chunk])
            if ctx.needs_input_grad[1]:
                grad_head += grad_logits.T @ rows[chunk]
        ctx.save_for_backward(grad_rows[:count], grad_head)
        return losses[:count]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_rows, grad_head = ctx.saved_tensors
        row_weights = grad_outputs[0]
        scale = row_weights[0] if len(row_weights) else row_weights.new_zeros(())
        assert bool((row_weights == scale).all()), "every row must have the same weight in the loss"
        needs_rows, needs_head = ctx.needs_input_grad[:2]
        return (
            grad_rows.mul_(scale) if needs_rows else None,
            grad_head.mul_(scale).to(grad_rows.dtype) if needs_head else None,
            None,
        )


def _losses(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = (rows @ head.T).float()
    return logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]


def _chunks(rows: Tensor, head: Tensor) -> list[slice]:
    size = max(MIN_CHUNK, CHUNK_BYTES[rows.device.type] // (rows.element_size() * len(head)))
    return [slice(start, start + size) for start in range(0, max(1, len(rows)), size)]
