"""torch.optim.Muon as oracle, and what an orthogonal matrix is."""

import torch

from tasks.training.loop.muon import Muon, orthogonalize

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 24), (16, 4)]


def weights() -> list[torch.nn.Parameter]:
    dice = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=dice)) for shape in SHAPES]


def test_steps_equal_those_of_torch() -> None:
    ours, theirs = weights(), weights()
    optimizers = (
        Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    dice = torch.Generator().manual_seed(1)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=dice)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=0)  # of steps of 0.02: both work in bfloat16


def test_a_weight_without_gradient_stays() -> None:
    first, second = weights()[:2]
    before = second.detach().clone()
    first.grad = torch.ones_like(first)
    Muon([first, second]).step()
    assert torch.equal(second, before)
    assert not torch.equal(first, weights()[0])


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices).float())
    assert values.min() > 0.6
    assert values.max() < 1.3
