"""The guard against over-optimization: keeps the best weights by gold, and stops when gold falls while score rises.

A policy pressed against a learned reward ends by pleasing its flaws: the score goes on rising while what it stands for
falls (Gao 2022, arXiv:2210.10760). So the policy is measured again and again by something it is never trained on.
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
    """Watches (gold, score, kl) of one run. `stop_reason` is set once over-optimization is seen."""

    def __init__(self, params: GuardParams, model: nn.Module) -> None:
        self.params, self._model = params, model
        self.history: list[dict[str, float]] = []
        self.best: Weights | None = None
        self.best_step: int | None = None
        self.stop_reason: str | None = None

    def observe(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take in one evaluation: `score`, `kl` and, where there is one, `gold`."""
        self.history.append({"step": step, **numbers})
        if "gold" not in numbers:
            return
        if self._allowed(numbers) and numbers["gold"] > self._best_gold():
            self.best_step = step
            self.best = {
                name: processes.full_tensor(p) for name, p in self._model.named_parameters() if p.requires_grad
            }
        self.stop_reason = self.stop_reason or self._over_optimization()

    def _allowed(self, numbers: Mapping[str, float]) -> bool:
        return self.params.max_kl is None or numbers["kl"] <= self.params.max_kl

    def _best_gold(self) -> float:
        return max((row["gold"] for row in self.history if row["step"] == self.best_step), default=float("-inf"))

    def _over_optimization(self) -> str | None:
        """Compare the mean of the last window with each window before it that does not overlap."""
        size = self.params.window
        if len(self.history) < 2 * size:
            return None
        now = self._mean(len(self.history) - size)
        before = max((self._mean(start) for start in range(len(self.history) - 2 * size + 1)), key=lambda m: m["gold"])
        if before["gold"] - now["gold"] <= self.params.min_drop or now["score"] <= before["score"]:
            return None
        return (
            f"over-optimization: up to step {self.history[-1]['step']:g} the score rose from {before['score']:.3f} to "
            f"{now['score']:.3f} while gold fell from {before['gold']:.3f} to {now['gold']:.3f} (means of {size})"
        )

    def _mean(self, start: int) -> dict[str, float]:
        rows = self.history[start : start + self.params.window]
        return {key: sum(row[key] for row in rows) / len(rows) for key in ("gold", "score")}

    def restore_best(self) -> None:
        """Give the model the weights that were best by gold, if there were any."""
        for name, parameter in self._model.named_parameters():
            if self.best is not None and name in self.best:
                parameter.data.copy_(self.best[name])

    def notes(self) -> list[str]:
        """The warnings about this run, the most important first."""
        if not any("gold" in row for row in self.history):
            return [
                "NOT GUARDED: no prompt carries a gold measure, so the last weights were kept and nobody can say "
                "whether a higher score is a better answer"
            ]
        last = self.history[-1]
        if self.best_step is None:
            return [f"every evaluation strayed beyond {self.params.max_kl} nats; the last weights were kept"]
        kept = f"kept the weights of step {self.best_step} (gold {self._best_gold():.3f})"
        said = [f"{self.stop_reason.upper()}; {kept}"] if self.stop_reason else []
        if not said and self.best_step != last["step"]:
            said = [f"{kept}, not those of the last step {last['step']:g} (gold {last['gold']:.3f})"]
        if self.best_step == 0:
            said.append("NO GAIN: no evaluation was better by gold than the model that training began with")
        return said

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"history": self.history, "best_step": self.best_step, "best": self.best, "stop": self.stop_reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.history, self.best_step = list(state["history"]), state["best_step"]
        self.best, self.stop_reason = state["best"], state["stop"]
