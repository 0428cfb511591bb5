"""How often the answer of one model is better than another's to the same test prompt; a tie counts half.

Judges: the gold reward, the reward model, and, if `judge` is set, a language model behind an OpenAI-compatible
endpoint. Answers are sampled at temperature 1. `length_controlled` is the win rate that is expected at equal lengths
(after arXiv:2404.04475). Intervals: bootstrap over prompts, which resamples both answers to a prompt together.
"""

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks.errors import BadInput
from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, evenly_spaced
from tasks.evaluation.judge import JudgeParams, judge_in_both_orders
from tasks.evaluation.metrics.gold import gold_rewards
from tasks.reports import Score

FloatArray = npt.NDArray[np.float64]
SCORES = ("win_rate.MODEL_vs_*.*.wins", "win_rate.MODEL_vs_*.*.ties", "win_rate.MODEL_vs_*.*.length_controlled")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Win rates between the models."""

    judge: JudgeParams | None = Field(
        None, description="A language model that compares answers in addition. Its replies may differ between runs."
    )


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """win_rate by pair of models and judge: wins, ties and the length-controlled win rate."""
    result = MetricResult({"win_rate": {}})
    if len(inputs.policies) < 2:
        raise NotMeasured(f"there is no model to compare with {inputs.reference}")
    has_reward_model = not inputs.left_out(inputs.params.reward_model)
    for opponent, model in combinations(inputs.policies, 2):
        length_differences = _lengths(inputs, model) - _lengths(inputs, opponent)
        wins_by_judge = {}
        if has_reward_model:
            wins_by_judge["reward"] = compare(inputs.sampled_rewards(model), inputs.sampled_rewards(opponent))
        if inputs.verifiable:
            model_gold, opponent_gold = (gold_rewards(inputs, name, greedy=False) for name in (model, opponent))
            wins_by_judge["gold"] = compare(model_gold, opponent_gold)
        result.items += [
            prompt.item(f"win_rate.{judge}", f"{model}_vs_{opponent}", answer.text, win)
            for judge, wins in wins_by_judge.items()
            for prompt, answer, win in zip(inputs.prompts, inputs.answers(model, greedy=False), wins, strict=True)
        ]
        scores: dict[str, Any] = {judge: summarize(wins, length_differences) for judge, wins in wins_by_judge.items()}
        if params.judge:
            scores |= _ask_judge(inputs, model, opponent, length_differences, params.judge, result)
        result.scores["win_rate"][f"{model}_vs_{opponent}"] = scores
    return result


def compare(scores: FloatArray, opponent_scores: FloatArray) -> FloatArray:
    """1 where the score is higher than the opponent's, 0.5 where both are equal, 0 where it is lower, [n]."""
    return np.asarray((np.sign(scores - opponent_scores) + 1) / 2)


def summarize(wins: FloatArray, length_differences: FloatArray) -> dict[str, Score]:
    """Win rate, share of ties, and win rate at equal lengths; wins [n], length differences [n] in tokens."""
    return {
        "wins": intervals.unit_mean(wins).compared_with("equal models", 0.5),
        "ties": Score.of_share(int((wins == 0.5).sum()), len(wins)),
        "length_controlled": length_controlled(wins, length_differences),
    }


def length_controlled(wins: FloatArray, length_differences: FloatArray, num_resamples: int = 200) -> Score:
    """The win rate that is expected at equal lengths; wins [n] in {0, 0.5, 1}, length differences [n] in tokens.

    A logistic regression predicts the win from tanh(length difference / its standard deviation). At a difference of 0
    only the intercept remains, so that sigmoid(intercept) is the win rate without the effect of length. tanh bounds the
    influence of very long answers. Interval: percentile bootstrap over prompts.
    """
    n = len(wins)
    features = np.stack([np.ones(n), np.tanh(length_differences / (length_differences.std() or 1.0))], axis=1)
    generator = np.random.default_rng(0)
    # A resample is a weight per prompt: how often the prompt was drawn. The first row, all ones, is the sample itself.
    resamples = [np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(num_resamples)]
    intercepts = _fit_logistic(features, wins, np.array([np.ones(n), *resamples], np.float64))[:, 0]
    rates = 1 / (1 + np.exp(-intercepts))
    low, high = np.quantile(rates[1:], [0.025, 0.975])
    return intervals.rounded_score(rates[0], low, high, n)


def _fit_logistic(features: FloatArray, wins: FloatArray, weights: FloatArray, ridge: float = 0.1) -> FloatArray:
    """Fit one logistic regression per row of `weights` [num_resamples, n] by Newton's method.

    Returns coefficients [num_resamples, 2]. The ridge penalty keeps them finite when a model wins every comparison, and
    steps are limited to 2, because an unlimited Newton step can diverge there.
    """
    coefficients = np.zeros((len(weights), 2))
    for _ in range(25):
        p = 1 / (1 + np.exp(-coefficients @ features.T))
        gradient = (weights * (wins - p)) @ features - ridge * coefficients
        hessian = np.einsum("bn,ni,nj->bij", weights * p * (1 - p), features, features) + ridge * np.eye(2)
        coefficients += np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -2, 2)
    return coefficients


def _lengths(inputs: EvaluationInputs, name: str) -> FloatArray:
    return np.array([len(answer.ids) for answer in inputs.answers(name, greedy=False)], np.float64)


def _ask_judge(
    inputs: EvaluationInputs,
    model: str,
    opponent: str,
    length_differences: FloatArray,
    params: JudgeParams,
    result: MetricResult,
) -> dict[str, Any]:
    """The summary of the judge model's replies; empty, with a note in `result`, if it gives no valid reply."""
    rows = evenly_spaced(range(len(inputs.prompts)), params.num_prompts)
    questions = [inputs.prompts[row].text for row in rows]
    texts = [[inputs.answers(name, greedy=False)[row].text for row in rows] for name in (model, opponent)]
    try:
        replies = judge_in_both_orders(questions, texts[0], texts[1], params)
    except BadInput as error:
        result.notes.append(f"win rate of {model} against {opponent}: {error}")
        return {}
    valid = [index for index, win in enumerate(replies) if win is not None]
    if len(valid) < len(replies):
        num_invalid = len(replies) - len(valid)
        result.notes.append(
            f"win rate of {model} against {opponent}: the judge gave an invalid reply to {num_invalid} of "
            f"{len(replies)} prompts"
        )
    if not valid:
        return {}
    wins = np.array([replies[index] for index in valid], np.float64)
    return {"judge": summarize(wins, length_differences[np.array(rows)[valid]])}
