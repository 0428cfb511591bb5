"""The training loop: updates by hand, resuming, signals, skipped steps, precision and the step log."""

import math
import signal
from pathlib import Path

import pytest
import torch

from tasks.errors import BadParams
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tests.training.small_work import Examples, LinearWork, same, weights

QUICK = {"learning_rate": 0.01, "warmup_steps": 2, "precision": "fp32", "num_threads": 1, "device": "cpu"}


def params(**changes: object) -> LoopParams:
    return LoopParams(**{**QUICK, "steps": 12, **changes})


def test_one_step_of_adamw_by_hand(tmp_path: Path) -> None:
    """First AdamW step: m/sqrt(v) = sign of the gradient, so each weight moves by lr; vectors do not decay."""
    work = LinearWork()
    before = weights(work)
    run(work, params(steps=1, warmup_steps=0, schedule="constant", weight_decay=0.5), tmp_path, "test")
    batch = LinearWork().batches(0)[0]
    other = LinearWork()
    other.loss(batch)[0].backward()
    for old, new, p in zip(before, weights(work), other.model.parameters(), strict=True):
        assert p.grad is not None
        decay = 0.5 if old.ndim == 2 else 0.0
        torch.testing.assert_close(new, old - 0.01 * decay * old - 0.01 * p.grad.sign(), atol=1e-5, rtol=1e-4)


def test_accumulation_gives_the_gradients_of_one_batch(tmp_path: Path) -> None:
    """Parts of 5 and 3 examples, weighted 5/8 and 3/8."""
    whole, parts = LinearWork(1), LinearWork(2)
    rows = [run(work, params(), tmp_path / str(work.num_parts), "test") for work in (whole, parts)]
    for of_whole, of_parts in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(of_whole, of_parts)
    assert rows[0][-1]["loss"] == pytest.approx(rows[1][-1]["loss"], rel=1e-5)
    assert rows[1][-1]["examples"] == pytest.approx((5 * 5 + 3 * 3) / 8)


def test_clipping_bounds_the_step_but_the_log_has_the_whole_norm(tmp_path: Path) -> None:
    """With plain gradients scaled to norm 1e-3, AdamW's direction stays and its epsilon is not felt."""
    row = run(LinearWork(), params(steps=1, max_gradient_norm=1e-3), tmp_path, "test")[0]
    assert row["gradient_norm"] > 0.1


def test_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    """A run that fails after step 7 and is resumed has the same weights and step log, bit for bit, with dropout."""
    whole = LinearWork(dropout=0.5)
    rows = run(whole, params(), tmp_path / "whole", "test")

    class Killed(LinearWork):
        def stop(self) -> str | None:
            super().stop()
            if len(self.losses) == 7:
                raise MemoryError
            return None

    with pytest.raises(MemoryError):
        run(Killed(dropout=0.5), params(checkpoint_every=2), tmp_path / "killed", "test")
    resumed = LinearWork(dropout=0.5)
    assert run(resumed, params(checkpoint_every=2), tmp_path / "killed", "test") == rows
    assert same(weights(whole), weights(resumed))
    assert len(resumed.losses) == 12


def test_other_params_do_not_take_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(LinearWork(), params(checkpoint_every=2), tmp_path, "test")
    fresh = run(LinearWork(), params(seed=1), tmp_path, "test")
    assert "other params" in capsys.readouterr().err
    assert fresh[0]["step"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    class Interrupted(LinearWork):
        def loss(self, batch: Examples):  # type: ignore[no-untyped-def]
            if len(self.losses) == 4:
                signal.raise_signal(number)
            return super().loss(batch)

    class Terminated(BaseException):
        """Stands for Prefect's TerminationSignal."""

    def terminate(*_: object) -> None:
        raise Terminated

    before = {n: signal.signal(n, terminate) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(Terminated):
            run(Interrupted(), params(), tmp_path, "test")
        assert signal.getsignal(number) is terminate
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["000000005"]
    whole, resumed = LinearWork(), LinearWork()
    run(whole, params(), tmp_path / "whole", "test")
    run(resumed, params(), tmp_path, "test")
    assert same(weights(whole), weights(resumed))


def test_a_step_that_is_not_finite_changes_no_weight(tmp_path: Path) -> None:
    class Poisoned(LinearWork):
        skipped_step: tuple[int, float] = (0, 0.0)

        def loss(self, batch: Examples):  # type: ignore[no-untyped-def]
            loss, numbers = super().loss(batch)
            return (loss * math.nan if len(self.losses) == 3 else loss), numbers

        def skipped(self, step: int, norm: float, batches: object) -> None:
            self.skipped_step = (step, norm)
            self.weights_before = weights(self)

    work = Poisoned()
    run(work, params(steps=4), tmp_path / "poisoned", "test")
    assert work.skipped_step[0] == 4
    assert math.isnan(work.skipped_step[1])
    assert same(work.weights_before, weights(work))


def test_divergence_ends_in_one_message(tmp_path: Path) -> None:
    class Diverged(LinearWork):
        def loss(self, batch: Examples):  # type: ignore[no-untyped-def]
            loss, numbers = super().loss(batch)
            return loss * math.inf, numbers

    with pytest.raises(BadParams, match=r"diverged.*learning_rate"):
        run(Diverged(), params(steps=50), tmp_path, "test")


def test_a_spike_is_skipped_after_enough_steps(tmp_path: Path) -> None:
    class Spiking(LinearWork):
        skipped_steps: tuple[int, ...] = ()

        def loss(self, batch: Examples):  # type: ignore[no-untyped-def]
            loss, numbers = super().loss(batch)
            return loss * (1e6 if len(self.losses) in (10, 45) else 1), numbers

        def skipped(self, step: int, norm: float, batches: object) -> None:
            self.skipped_steps += (step,)

    work = Spiking()
    run(work, params(steps=50, learning_rate=1e-4), tmp_path, "test")
    assert work.skipped_steps == (46,)


def test_keep_best_ends_with_the_lowest_validation_loss(tmp_path: Path) -> None:
    """The validation loss of LinearWork is the size of its weights, which grows, so the first evaluation is best."""
    work, half = LinearWork(), LinearWork()
    rows = run(work, params(evaluate_every=4, keep_best=True, schedule="constant"), tmp_path / "a", "test")
    best = min((row for row in rows if row["validation_loss"] is not None), key=lambda row: row["validation_loss"])
    run(half, params(steps=best["step"], schedule="constant"), tmp_path / "b", "test")
    assert same(weights(work), weights(half))


def test_bf16_follows_fp32_and_leaves_fp32_weights(tmp_path: Path) -> None:
    low, high = LinearWork(), LinearWork()
    run(low, params(precision="bf16", learning_rate=1e-3), tmp_path / "low", "test")
    run(high, params(learning_rate=1e-3), tmp_path / "high", "test")
    for of_bf16, of_fp32 in zip(weights(low), weights(high), strict=True):
        assert of_bf16.dtype == torch.float32
        torch.testing.assert_close(of_bf16, of_fp32, atol=5e-3, rtol=0.05)


def test_fp16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(BadParams, match="fp16"):
        run(LinearWork(), params(precision="fp16"), tmp_path, "test")


def test_log_rows_have_the_same_columns_and_stand_in_steps_csv(tmp_path: Path) -> None:
    rows = run(LinearWork(), params(log_every=5, evaluate_every=6), tmp_path, "test")
    assert [row["step"] for row in rows] == [1, 5, 6, 10, 12]
    assert len({tuple(row) for row in rows}) == 1
    lines = (tmp_path / "steps.csv").read_text().splitlines()
    assert lines[0] == "step,loss,examples,gradient_norm,learning_rate,validation_loss"
    assert len(lines) == 6


def test_muon_and_adamw_share_the_weights(tmp_path: Path) -> None:
    work = LinearWork()
    rows = run(work, params(optimizer="muon", steps=200, learning_rate=0.05, log_every=1), tmp_path, "test")
    assert rows[-1]["loss"] < rows[0]["loss"] / 10
