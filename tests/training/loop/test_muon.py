"""Muon gives the updates of torch.optim.Muon, and its matrices are nearly orthogonal."""

import torch

from tasks.training.loop.muon import Muon, orthogonalize

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 24), (16, 4)]


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_steps_equal_those_of_torch() -> None:
    weights_of_muon, weights_of_torch = weights(), weights()
    optimizers = (
        Muon(weights_of_muon, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(weights_of_torch, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for one, other in zip(weights_of_muon, weights_of_torch, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(weights_of_muon, weights_of_torch, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # both multiply in bfloat16; a step is 0.02


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
