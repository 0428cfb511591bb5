"""The guard against over-optimization: it keeps the weights with the best gold reward, and can end the run.

A reward model has flaws, and a policy that is optimized long enough exploits them: the score continues to rise while
the quality that it stands for falls (Gao 2022, arXiv:2210.10760). The policy is therefore evaluated regularly by the
gold reward, which it is never trained on.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor, nn

from tasks.training.parallel import processes

Weights = dict[str, Tensor]


class GuardParams(BaseModel, frozen=True, extra="forbid"):
    """When a fall of the gold reward counts as over-optimization, and which weights may be kept."""

    window: int = Field(default=2, ge=1, description="Number of successive evaluations that are averaged.")
    min_drop: float = Field(
        default=0.03, ge=0, description="Fall of the mean gold reward that ends the run, if the score rises meanwhile."
    )
    max_kl: float | None = Field(
        default=2.0, gt=0, description="KL to the reference, in nats per answer, up to which weights are kept; null "
        "keeps any.",
    )  # fmt: skip


class Guard:
    """Observes gold reward, score and KL of one run. `stop_reason` is set as soon as over-optimization is detected."""

    def __init__(self, params: GuardParams, model: nn.Module) -> None:
        self.params, self._model = params, model
        self.history: list[dict[str, float]] = []
        self.best: Weights | None = None
        self.best_step: int | None = None
        self.stop_reason: str | None = None

    def observe(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record one evaluation: `score`, `kl` and, if it was measured, `gold`."""
        self.history.append({"step": step, **numbers})
        if "gold" not in numbers:
            return
        if self._allowed(numbers) and numbers["gold"] > self._best_gold():
            self.best_step = step
            # A copy in memory of the trainable weights only; with an adapter these are few. Every process calls this,
            # because gathering a sharded weight is a collective operation.
            self.best = {
                name: processes.full_tensor(p) for name, p in self._model.named_parameters() if p.requires_grad
            }
        self.stop_reason = self.stop_reason or self._over_optimization()

    def _allowed(self, numbers: Mapping[str, float]) -> bool:
        return self.params.max_kl is None or numbers["kl"] <= self.params.max_kl

    def _best_gold(self) -> float:
        return max((row["gold"] for row in self.history if row["step"] == self.best_step), default=float("-inf"))

    def _over_optimization(self) -> str | None:
        """Compare the mean of the last window with the best earlier window that does not overlap it."""
        # Single evaluations are noisy (with 200 prompts the standard error of gold is up to 0.035), hence the means.
        # A fall of gold alone is not over-optimization, because the score may fall with it, as after a step that was
        # too large. Only a fall against a rising score shows that a flaw of the reward is exploited.
        size = self.params.window
        if len(self.history) < 2 * size:
            return None
        last = self._mean(len(self.history) - size)
        earlier = (self._mean(start) for start in range(len(self.history) - 2 * size + 1))
        best = max(earlier, key=lambda means: means["gold"])
        if best["gold"] - last["gold"] <= self.params.min_drop or last["score"] <= best["score"]:
            return None
        return (
            f"over-optimization: up to step {self.history[-1]['step']:g} the score rose from {best['score']:.3f} to "
            f"{last['score']:.3f}, but the gold reward fell from {best['gold']:.3f} to {last['gold']:.3f} (means of "
            f"{size} evaluations)"
        )

    def _mean(self, start: int) -> dict[str, float]:
        rows = self.history[start : start + self.params.window]
        return {key: sum(row[key] for row in rows) / len(rows) for key in ("gold", "score")}

    def restore_best(self) -> None:
        """Copy the weights with the best gold reward back to the model, if there are any."""
        for name, parameter in self._model.named_parameters():
            if self.best is not None and name in self.best:
                parameter.data.copy_(self.best[name])

    def notes(self) -> list[str]:
        """The warnings about this run, the most important first."""
        if not any("gold" in row for row in self.history):
            return [
                "NOT GUARDED: no prompt has a gold measure. The last weights were kept, and it is not known whether "
                "answers with a higher score are better"
            ]
        last = self.history[-1]
        if self.best_step is None:
            return [
                f"in every evaluation the KL to the reference was above {self.params.max_kl} nats per answer; the last "
                "weights were kept"
            ]
        kept = f"kept the weights of step {self.best_step} (gold {self._best_gold():.3f})"
        notes = [f"{self.stop_reason.upper()}; {kept}"] if self.stop_reason else []
        if not notes and self.best_step != last["step"]:
            notes = [f"{kept}, not those of the last step {last['step']:g} (gold {last['gold']:.3f})"]
        if self.best_step == 0:
            notes.append("NO GAIN: no evaluation had a higher gold reward than the model before the training")
        return notes

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores, so that a resumed run continues exactly."""
        return {"history": self.history, "best_step": self.best_step, "best": self.best, "stop": self.stop_reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.history, self.best_step = list(state["history"]), state["best_step"]
        self.best, self.stop_reason = state["best"], state["stop"]
