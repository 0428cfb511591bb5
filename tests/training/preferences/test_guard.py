"""The guard against over-optimization, on short histories with known outcomes."""

from typing import Any

import pytest
import torch
from torch import nn

from tasks.training.preferences.guard import Guard, GuardParams


def observe_history(golds: Any, scores: Any, kls: Any = None, **changes: Any) -> Any:
    """A guard that observed these evaluations, and the weight that it restored: the number of the best step."""
    model = nn.Linear(1, 1, bias=False)
    guard = Guard(GuardParams(**{"window": 2, "min_drop": 0.05, **changes}), model)
    for step, (gold, score) in enumerate(zip(golds, scores, strict=True)):
        model.weight.data.fill_(step)
        guard.observe(step, {"gold": gold, "score": score, "kl": kls[step] if kls else 0.0})
    guard.restore_best()
    return guard, model.weight.item()


def test_gold_falling_while_the_score_rises_is_over_optimization() -> None:
    guard, kept = observe_history([0.5, 0.7, 0.9, 0.6, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert "over-optimization" in guard.stop_reason
    assert kept == 2
    assert guard.notes()[0].startswith("OVER-OPTIMIZATION: UP TO STEP 4 THE SCORE ROSE")
    assert "kept the weights of step 2 (gold 0.900)" in guard.notes()[0]


@pytest.mark.parametrize(
    ("golds", "scores"),
    [
        ([0.5, 0.6, 0.7, 0.8], [1.0, 2.0, 3.0, 4.0]),  # both rise
        ([0.8, 0.8, 0.5, 0.5], [4.0, 4.0, 3.0, 3.0]),  # both fall: not a flaw of the reward
        ([0.8, 0.8, 0.76, 0.76], [1.0, 2.0, 3.0, 4.0]),  # a fall within noise
        ([0.9, 0.5], [1.0, 2.0]),  # too short to compare windows
    ],
)
def test_histories_without_over_optimization(golds: Any, scores: Any) -> None:
    guard, _ = observe_history(golds, scores)
    assert guard.stop_reason is None


def test_weights_with_too_large_a_kl_are_not_kept() -> None:
    guard, kept = observe_history([0.5, 0.7, 0.9], [1.0, 2.0, 3.0], kls=[0.0, 1.0, 9.0])
    assert kept == 1
    assert guard.notes() == ["kept the weights of step 1 (gold 0.700), not those of the last step 2 (gold 0.900)"]


def test_a_run_without_gain_is_reported() -> None:
    guard, kept = observe_history([0.9, 0.7, 0.8], [1.0, 1.0, 1.0])
    assert kept == 0
    assert any(note.startswith("NO GAIN") for note in guard.notes())


def test_a_run_without_gold_keeps_its_last_weights_and_reports_that_it_is_not_guarded() -> None:
    model = nn.Linear(1, 1, bias=False)
    guard = Guard(GuardParams(), model)
    guard.observe(0, {"score": 1.0, "kl": 0.0})
    model.weight.data.fill_(7.0)
    guard.restore_best()
    assert model.weight.item() == 7.0
    assert guard.notes()[0].startswith("NOT GUARDED")


def test_a_guard_that_was_restored_continues_as_before() -> None:
    first, _ = observe_history([0.5, 0.7, 0.9], [1.0, 2.0, 3.0])
    model = nn.Linear(1, 1, bias=False)
    second = Guard(first.params, model)
    second.load_state_dict(first.state_dict())
    for guard in (first, second):
        guard.observe(3, {"gold": 0.6, "score": 4.0, "kl": 0.0})
        guard.observe(4, {"gold": 0.5, "score": 5.0, "kl": 0.0})
    second.restore_best()
    assert second.stop_reason == first.stop_reason
    assert torch.equal(model.weight, torch.full((1, 1), 2.0))
