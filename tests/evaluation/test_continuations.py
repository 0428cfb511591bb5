"""Likelihoods of continuations that share prompts and beginnings of prompts, against sequences of their own."""

from typing import Any

import numpy as np
import pytest
import torch

from tasks.causal import methods
from tasks.evaluation import continuations
from tasks.evaluation.continuations import Likelihood, Pair, fit, likelihoods
from tests.evaluation import small

SHARED = list(range(10, 40))
PAIRS = [
    Pair([*SHARED, 50 + question, *range(60, 60 + question)], [70 + option, *range(80, 80 + option)])
    for question in range(5)
    for option in range(4)
] + [Pair([7], [9, 8, 7]), Pair([7], []), Pair(SHARED[:20], [3])]


def alone(model: torch.nn.Module, pair: Pair) -> Likelihood:
    """The likelihood by a plain forward pass."""
    logits = model(torch.tensor([pair.prompt + pair.continuation])).logits[0].log_softmax(-1)
    before = logits[len(pair.prompt) - 1 : -1]
    targets = torch.tensor(pair.continuation, dtype=torch.long)
    log_probs = before.gather(1, targets[:, None])[:, 0].detach().double().numpy()
    return Likelihood(log_probs, bool((before.argmax(-1) == targets).all()))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("pairs", ["shared", "separate"])
def test_each_continuation_has_the_likelihood_of_its_own_sequence(batch_size: int, pairs: methods.Pairs) -> None:
    model = small.causal(1)
    methods.choose(model, methods.Methods(pairs="shared" if pairs == "shared" else "separate"))
    for likelihood, pair in zip(likelihoods(model, PAIRS, batch_size), PAIRS, strict=True):
        expected = alone(model, pair)
        np.testing.assert_allclose(likelihood.log_probs, expected.log_probs, atol=1e-5)
        assert likelihood.is_greedy == expected.is_greedy


def test_what_is_shared_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 prompts of 31 to 35 tokens share 30: the model reads 30 + 5 (1 .. 5) + 5 (0 + 1 + 2 + 3) tokens of these."""
    model = small.causal(1)
    num_read: list[tuple[int, ...]] = []
    forward = model.model.forward

    def counted(**inputs: Any) -> Any:
        num_read.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(model.model, "forward", counted)
    monkeypatch.setattr(continuations, "TOLERANCE", float("inf"))
    likelihoods(model, PAIRS[:20], 64)
    assert num_read[0] == (1, 30)
    assert num_read[-1] == (5, 5 + 6), "all questions in one batch, without the beginning"


def test_a_cache_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.causal(1)
    monkeypatch.setattr(continuations, "TOLERANCE", -1.0)
    scores = likelihoods(model, PAIRS, 8)
    np.testing.assert_allclose(scores[3].log_probs, alone(model, PAIRS[3]).log_probs, atol=1e-5)


def test_rows_stay_short_when_many_continuations_have_a_short_prompt() -> None:
    """A prompt of 2 tokens has rows of at most 4 * 2 + 32: 2 + 2 * 18 - 1 inputs and no third continuation of 19."""
    rows = continuations._rows([Pair([1, 2], [3] * 19)] * 5, can_share=True)
    assert [len(row.continuations) for row in rows] == [2, 2, 1]


def test_long_prompts_lose_their_beginning_and_are_counted() -> None:
    """The context has 128 tokens; the last token of a continuation is no input, so that 129 fit."""
    model = small.causal(1)
    pairs = [Pair([1] * 126, [2, 3]), Pair([1, *[4] * 128], [2]), Pair([1], [2] * 130)]
    fitted, num_shortened, num_too_long = fit(model, pairs)
    assert (num_shortened, num_too_long) == (1, 1)
    assert fitted[0] == pairs[0]
    assert fitted[1] == Pair([4] * 128, [2])
    assert len(likelihoods(model, fitted[:2], 2)[1].log_probs) == 1
