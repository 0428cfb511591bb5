"""Several answers in one row give the same results as separate sequences."""

import pytest
import torch

from tasks.answers import answer_logits, answer_rewards, answer_states, collate, token_log_probs
from tasks.causal import masks
from tasks.causal.shared_prompts import collate_by_prompt
from tasks.training.stages.reward import with_head
from tests.training import tiny

PROMPTS = [tiny.prompt("a b"), tiny.prompt("c")]
ANSWERS = [[tiny.answer("d e f"), tiny.answer("g"), [5]], [tiny.answer("h i")]]
SEQUENCES = [prompt + answer for prompt, own in zip(PROMPTS, ANSWERS, strict=True) for answer in own]
LENGTHS = [len(prompt) for prompt, own in zip(PROMPTS, ANSWERS, strict=True) for _ in own]


def test_a_row_with_two_answers() -> None:
    """[1 2 | 3 4 | 5]: 3 and 5 are predicted from column 1, 4 from column 2; 3 and 5 have the same position."""
    batch = collate_by_prompt([[1, 2]], [[[3, 4], [5]]], pad_id=0)
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.positions is not None
    assert batch.part is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert (batch.where.tolist(), batch.targets.tolist()) == ([1, 2, 1], [3, 4, 5])
    assert (batch.owner.tolist(), batch.ends.tolist()) == ([0, 0, 1], [3, 4])
    visible = masks.Layout(batch.positions, batch.part).visible[0].int().tolist()
    assert visible == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("own_attention", [False, True])
def test_log_probs_and_scores_equal_those_of_separate_sequences(own_attention: bool) -> None:
    policy, reward_model = tiny.model(), with_head(tiny.model(1), 0)
    separate = collate(SEQUENCES, LENGTHS, 0)
    expected = token_log_probs(answer_logits(policy, answer_states(policy, separate)), separate.targets)
    scores = answer_rewards(reward_model, separate)
    shared = collate_by_prompt(PROMPTS, ANSWERS, 0)
    assert shared.targets.tolist() == separate.targets.tolist()
    if own_attention:
        for model in (policy, reward_model):
            model.set_attn_implementation(masks.NAME)
    log_probs = token_log_probs(answer_logits(policy, answer_states(policy, shared)), shared.targets)
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(answer_rewards(reward_model, shared), scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(shared.sum_by_answer(log_probs), separate.sum_by_answer(expected), atol=1e-5, rtol=0)


def test_gradients_equal_those_of_separate_sequences() -> None:
    gradients = []
    for batch in (collate(SEQUENCES, LENGTHS, 0), collate_by_prompt(PROMPTS, ANSWERS, 0)):
        model = tiny.model()
        token_log_probs(answer_logits(model, answer_states(model, batch)), batch.targets).sum().backward()
        gradients.append(model.model.embed_tokens.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
