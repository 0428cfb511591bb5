"""Losses. The logits exist for a few hundred rows at a time, never whole: their gradients are taken on the way."""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}  # of logits at once; on a CPU what its cache can hold
MIN_CHUNK = 64
TINY = 1e-37


def next_token_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy in nats over the targets that are not IGNORED, and how many those are.

    hidden [..., width], head [vocab, width], targets [...]. Only positions with a target go through the head.
    """
    chosen = targets.reshape(-1) != IGNORED
    rows = hidden.reshape(-1, hidden.shape[-1])[chosen]
    wanted = targets.reshape(-1)[chosen]
    return linear_cross_entropy(rows, head, wanted).sum() / max(1, len(wanted)), len(wanted)


def linear_cross_entropy(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(rows @ head^T)[target] per row, in nats: rows [n, width], head [vocab, width], targets [n] -> [n].

    The gradients are computed beside the loss, for a loss that is the sum or mean of the result: every row must then
    be given the same weight (checked in backward).
    """
    losses: Tensor = _LinearCrossEntropy.apply(rows, head, targets)  # type: ignore[no-untyped-call]
    return losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        if not any(ctx.needs_input_grad):
            return torch.cat([_losses(rows[part], head, targets[part]) for part in _parts(rows, head)])
        losses = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows)
        grad_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for part in _parts(rows, head):
            # One kernel that works in fp32 inside. The loss of a bf16 probability is off by at most 0.002.
            difference = torch.softmax(rows[part] @ head.T, -1)
            wanted = targets[part, None]
            losses[part] = -difference.gather(1, wanted)[:, 0].float().clamp_min(TINY).log()
            difference.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=difference.dtype))
            torch.mm(difference, head, out=grad_rows[part])
            if ctx.needs_input_grad[1]:
                grad_head += difference.T @ rows[part]
        ctx.save_for_backward(grad_rows, grad_head)
        return losses

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_rows, grad_head = ctx.saved_tensors
        weight = grad_outputs[0]
        scale = weight[0] if len(weight) else weight.new_zeros(())
        assert bool((weight == scale).all()), "every row must have the same weight in the loss"
        wants_rows, wants_head = ctx.needs_input_grad[:2]
        return (
            grad_rows.mul_(scale) if wants_rows else None,
            grad_head.mul_(scale).to(grad_rows.dtype) if wants_head else None,
            None,
        )


def _losses(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = (rows @ head.T).float()
    return logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]


def _parts(rows: Tensor, head: Tensor) -> list[slice]:
    size = max(MIN_CHUNK, CHUNK_BYTES[rows.device.type] // (rows.element_size() * len(head)))
    return [slice(start, start + size) for start in range(0, max(1, len(rows)), size)]
