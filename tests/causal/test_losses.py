"""Cross-entropy in chunks equals cross-entropy of all logits, with its gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.causal import losses
from tasks.causal.losses import IGNORED, Head, divergence, linear_cross_entropy, next_token_loss


def test_two_losses_by_hand() -> None:
    """Logits (0, log 3) for one row: p = (1/4, 3/4), so -log p of the second is log(4/3)."""
    hidden, head = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    assert linear_cross_entropy(hidden, head, torch.tensor([1])).item() == pytest.approx(math.log(4 / 3))
    assert linear_cross_entropy(hidden, head, torch.tensor([0])).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_value_and_gradients_are_those_of_whole_logits(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(losses, "MIN_CHUNK", rows_at_once)
    monkeypatch.setitem(losses.CHUNK_BYTES, "cpu", 1)
    torch.manual_seed(0)
    hidden = torch.randn(2, 10, 6, requires_grad=True)
    head = torch.randn(50, 6, requires_grad=True)
    targets = torch.randint(0, 50, (2, 10))
    targets[0, :4] = IGNORED
    loss, count = next_token_loss(hidden, head, targets)
    (loss * 3).backward()
    gradients = hidden.grad, head.grad
    hidden.grad = head.grad = None
    plain = F.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    (plain * 3).backward()
    assert count == 16
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradients, (hidden.grad, head.grad), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(next_token_loss(hidden, head, targets)[0], plain.detach())


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4)
    linear_cross_entropy(hidden, head, torch.tensor([1, 2, 3])).mean().backward()
    assert hidden.grad is not None
    assert head.grad is None


def test_bf16_is_close() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(64, 16).bfloat16().requires_grad_(), torch.randn(100, 16).bfloat16().requires_grad_()
    targets = torch.randint(0, 100, (64,))
    loss = linear_cross_entropy(hidden, head, targets).mean()
    expected = F.cross_entropy(hidden.float() @ head.float().T, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=3e-3)


def test_no_target_no_loss_and_no_gradient() -> None:
    hidden, head = torch.randn(1, 3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss, count = next_token_loss(hidden, head, torch.full((1, 3), IGNORED))
    loss.backward()
    assert (count, loss.item()) == (0, 0.0)
    assert hidden.grad is not None
    assert not hidden.grad.any()


@pytest.mark.parametrize("is_matrix", [True, False])
def test_divergence_from_a_teacher_by_hand(is_matrix: bool) -> None:
    """Teacher: 1/2 for token 0, 1/2 for the others. Student with logits (0, 0, log 2): 1/4 and 3/4.

    1/2 log((1/2) / (1/4)) + 1/2 log((1/2) / (3/4)) = 1/2 log(4/3). The gradient of logit 0 is 1/4 - 1/2.
    """
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [0.0], [math.log(2)]], requires_grad=True)
    head: Head = weight if is_matrix else lambda states: states @ weight.T
    result = divergence(hidden, head, torch.tensor([[0]]), torch.tensor([[math.log(1 / 2)]]))
    assert result.tolist() == pytest.approx([math.log(4 / 3) / 2])
    result.sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].item() == pytest.approx(-1 / 4)


def test_divergence_of_many_rows_is_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(7, 4), torch.randn(9, 4)
    log_probs, tokens = torch.randn(7, 9).log_softmax(-1).topk(3)
    whole = divergence(hidden, head, tokens, log_probs)
    monkeypatch.setattr(losses, "MAX_UNKNOWN_CHUNK", 2)
    assert torch.allclose(divergence(hidden, head, tokens, log_probs), whole)
    own = (hidden @ head.T).log_softmax(-1)
    values, tokens = own.topk(3)
    assert divergence(hidden, head, tokens, values).abs().max() < 1e-6


def test_rows_in_bf16_are_filled_up_without_a_change_of_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """70 rows become 128, 64 stay 64; in fp32, no kernel is compiled for a number of rows."""
    rows = torch.randn(70, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert [len(losses.filled(part)) for part in (rows, rows[:64], rows[:1], rows.float())] == [128, 64, 1, 70]
    head, targets = torch.linspace(-1, 1, 400).reshape(50, 8).bfloat16(), torch.arange(70) % 50
    results = []
    for cpu_rows in (64, 1):
        monkeypatch.setattr(losses, "CPU_ROWS", cpu_rows)
        hidden, weight = rows.clone().requires_grad_(), head.clone().requires_grad_()
        values = linear_cross_entropy(hidden, weight, targets)
        values.mean().backward()
        results.append((values.detach(), hidden.grad, weight.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-2)
