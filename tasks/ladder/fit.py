"""Fit the loss of finished runs as a function of weights N and tokens D, and predict that of a larger run.

    L(N, D) = E + ((A / N^a)^(1/g) + (B / D^b)^(1/g))^g

With g = 1 this is the law of Chinchilla (arXiv:2203.15556, equation 2). A smaller g lets the scarcer of the two limit
the loss, as in equation 1.5 of arXiv:2001.08361: few more tokens help a model that is too small for them. g is fitted
only if the corrected criterion of Akaike justifies a sixth parameter. N counts all weights, embeddings and head
included, as in Chinchilla. Only the last loss of a run whose learning rate has decayed counts: losses in the middle
of a schedule are higher than those of a finished run of the same tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.errors import BadInput

Array = npt.NDArray[np.float64]
MIN_RUNS = 6  # one more than the parameters of Chinchilla's law
HUBER = 1e-3  # of log L, as in Chinchilla's appendix D.2
_FIRST_EXPONENTS, _FIRST_E = (0.2, 0.4), (0.2, 0.65)  # the second as share of the smallest loss
_WITH_INTERACTION = 6


class Run(NamedTuple):
    """A finished run: all weights, training tokens, and the loss in any unit, such as bits per byte."""

    weights: float
    tokens: float
    loss: float


@dataclass(frozen=True, slots=True)
class Law:
    """A fitted law. parameters: log E, log A, a, log B, b, log g; scale: the weights and tokens in units of A and B."""

    parameters: tuple[float, ...]
    scale: tuple[float, float]

    def loss(self, weights: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """The predicted loss, element by element."""
        log_n = np.log(np.asarray(weights, float) / self.scale[0])
        log_d = np.log(np.asarray(tokens, float) / self.scale[1])
        return _loss(np.array(self.parameters), log_n, log_d)

    def constants(self) -> dict[str, float]:
        """E, A, a, B, b and g, for N in weights and D in tokens."""
        log_e, log_a, a, log_b, b, *rest = self.parameters
        values = {"E": np.exp(log_e), "A": np.exp(log_a + a * np.log(self.scale[0])), "a": a}
        values |= {"B": np.exp(log_b + b * np.log(self.scale[1])), "b": b, "g": np.exp(rest[0]) if rest else 1.0}
        return {name: float(value) for name, value in values.items()}


def fit(runs: Sequence[Run], start: Law | None = None) -> Law:
    """The law with the least Huber loss of log L, from several first values, or only from the law `start`.

    Raises BadInput unless there are enough runs with at least two sizes and two numbers of tokens.
    """
    _check(runs)
    n, d, loss = (np.array(column, float) for column in zip(*runs, strict=True))
    scale = (float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean())))
    log_n, log_d, log_loss = np.log(n / scale[0]), np.log(d / scale[1]), np.log(loss)
    if start is not None:
        return Law(tuple(_minimize([_rescaled(start, scale)], log_n, log_d, log_loss)[1]), scale)
    simple = [
        np.array([np.log(e * loss.min()), np.log(0.15 * loss.min()), a, np.log(0.15 * loss.min()), b])
        for e in _FIRST_E for a in _FIRST_EXPONENTS for b in _FIRST_EXPONENTS
    ]  # fmt: skip
    best = _minimize(simple, log_n, log_d, log_loss)
    if len(runs) > _WITH_INTERACTION + 2:
        with_interaction = [np.append(one, -0.5) for one in (*simple[::3], best[1])]
        other = _minimize(with_interaction, log_n, log_d, log_loss)
        if _akaike(other, log_n, log_d, log_loss) < _akaike(best, log_n, log_d, log_loss):
            best = other
    return Law(tuple(best[1]), scale)


def _check(runs: Sequence[Run]) -> None:
    sizes, budgets = {run.weights for run in runs}, {run.tokens for run in runs}
    if len(runs) < MIN_RUNS or len(sizes) < 2 or len(budgets) < 2:
        raise BadInput(
            f"a scaling law needs at least {MIN_RUNS} finished runs of two or more sizes and numbers of tokens, not "
            f"{len(runs)} runs of {len(sizes)} sizes and {len(budgets)} numbers of tokens. Add rungs or budgets."
        )
    bad = [run for run in runs if not (run.weights > 0 and run.tokens > 0 and np.isfinite(run.loss) and run.loss > 0)]
    if bad:
        raise BadInput(f"a run needs positive weights, tokens and loss, but one is {bad[0]}. Remove it, or correct it.")


def _rescaled(law: Law, scale: tuple[float, float]) -> Array:
    """The parameters of a law whose A and B are stated in other units."""
    parameters = np.array(law.parameters)
    parameters[1] -= parameters[2] * np.log(scale[0] / law.scale[0])
    parameters[3] -= parameters[4] * np.log(scale[1] / law.scale[1])
    return parameters


def _loss(parameters: Array, log_n: Array, log_d: Array) -> Array:
    log_e, log_a, a, log_b, b, *rest = parameters
    g = np.exp(np.clip(rest[0], -4, 1)) if rest else 1.0
    in_n, in_d = (log_a - a * log_n) / g, (log_b - b * log_d) / g
    return np.asarray(np.exp(log_e) + np.exp(g * np.logaddexp(in_n, in_d)))


def _residuals(parameters: Array, log_n: Array, log_d: Array, log_loss: Array) -> Array:
    return np.asarray(np.log(_loss(parameters, log_n, log_d)) - log_loss)


def _minimize(first: Sequence[Array], *data: Array) -> tuple[float, Array]:
    """The least sum of Huber losses and its parameters. leastsq squares what it is given, so it gets roots of them."""
    from scipy.optimize import leastsq

    def roots(parameters: Array) -> Array:
        distance = np.abs(_residuals(parameters, *data)) / HUBER
        return np.sqrt(np.where(distance <= 1, distance**2, 2 * distance - 1))

    results = list[tuple[float, Array]]()
    with np.errstate(all="ignore"):
        for one in first:
            result: Any = leastsq(roots, one, full_output=True, maxfev=600)
            cost = float((roots(result[0]) ** 2).sum())
            if np.isfinite(cost):
                results.append((cost, result[0]))
    if not results:
        raise BadInput("no scaling law describes these losses: no first value led to a finite error. Check the losses.")
    return min(results, key=lambda result: result[0])


def _akaike(result: tuple[float, Array], *data: Array) -> float:
    """The corrected criterion of Akaike, for normal residuals of log L."""
    count, num = len(data[0]), len(result[1])
    variance = float((_residuals(result[1], *data) ** 2).mean())
    return float(count * np.log(max(variance, 1e-16))) + 2 * num + 2 * num * (num + 1) / (count - num - 1)
