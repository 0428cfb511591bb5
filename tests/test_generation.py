"""A tiny random Llama: batching, padding and the cache must change nothing that decoding row by row would give."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tasks import answers
from tasks.answers import collate, log_probabilities
from tasks.errors import BadInput
from tasks.generation import generate, nucleus, sample

PROMPTS = [[3, 4, 5, 6, 7], [8, 9], [10], [11, 12, 13], [3, 3, 3, 3, 3, 3, 3]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=24, max_position_embeddings=32, initializer_range=0.5, **shape)
    return LlamaForCausalLM(config).eval()


def draw(model: Any, prompts: Any, **changes: Any) -> Any:
    settings = {"max_new_tokens": 9, "end_ids": [2], "pad_id": 0, "generator": torch.Generator().manual_seed(7)}
    return generate(model, prompts, **{**settings, **changes})


def test_greedy_answers_are_what_full_forwards_without_cache_and_padding_choose(model: Any) -> None:
    result = draw(model, PROMPTS, temperature=0.0)
    for prompt, answer in zip(PROMPTS, result.answers, strict=True):
        ids = list(prompt)
        for token in answer:
            logits = model(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


def test_sampling_does_not_depend_on_how_prompts_are_batched(model: Any) -> None:
    together = draw(model, PROMPTS * 3)
    separately = draw(model, PROMPTS * 3, batch_size=1)
    assert together.answers == separately.answers
    assert together.answers != draw(model, PROMPTS * 3, generator=torch.Generator().manual_seed(8)).answers


def test_random_numbers_can_be_given(model: Any) -> None:
    numbers = torch.rand((len(PROMPTS), 9), generator=torch.Generator().manual_seed(7))
    assert draw(model, PROMPTS, random_numbers=numbers).answers == draw(model, PROMPTS).answers


def test_rows_end_at_the_end_token_and_say_so(model: Any) -> None:
    ends = list(range(2, 8))
    result = draw(model, PROMPTS * 4, end_ids=ends)
    assert any(result.finished)
    for answer, finished in zip(result.answers, result.finished, strict=True):
        assert finished == (answer[-1] in ends)
        assert not set(answer[:-1]) & set(ends)
        assert finished or len(answer) == 9


def test_log_probs_while_decoding_equal_those_of_one_padded_forward(model: Any) -> None:
    result = draw(model, PROMPTS, temperature=0.7)
    sequences = [prompt + answer for prompt, answer in zip(PROMPTS, result.answers, strict=True)]
    again = log_probabilities(model, sequences, [len(p) for p in PROMPTS], temperature=0.7, batch_size=2)
    for one, two in zip(result.log_probs, again, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_log_probabilities_against_the_models_own_logits(model: Any) -> None:
    ids = [5, 6, 7, 8, 9]
    table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = torch.stack([table[2, 8], table[3, 9]]).detach()
    (result,) = log_probabilities(model, [ids], [3])
    torch.testing.assert_close(result, expected)


def test_values_are_those_of_the_state_each_token_was_drawn_in(model: Any) -> None:
    head = torch.nn.Linear(16, 1)
    result = draw(model, PROMPTS, value_head=head)
    for prompt, answer, values in zip(PROMPTS, result.answers, result.values, strict=True):
        hidden = model.model(torch.tensor([prompt + answer])).last_hidden_state[0]
        expected = head(hidden[len(prompt) - 1 : -1]).squeeze(-1).detach()
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)


def test_tokens_are_heard_as_they_are_drawn(model: Any) -> None:
    heard: list[tuple[int, int]] = []
    result = draw(model, PROMPTS[:1], on_token=lambda row, token: heard.append((row, token)))
    assert heard == [(0, token) for token in result.answers[0]]


def test_sampling_by_hand() -> None:
    """p = .2 .5 .3 has the sums .2 .7 1: .1 -> 0, .2 -> 1 (its interval begins there), .69 -> 1, .71 -> 2, ~1 -> 2."""
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)
    chance = torch.tensor([0.1, 0.2001, 0.69, 0.71, 1 - 2**-24])
    tokens, log_probs = sample(logits, chance, temperature=1.0, top_p=1.0)
    assert tokens.tolist() == [0, 1, 1, 2, 2]
    torch.testing.assert_close(log_probs[:2], torch.tensor([math.log(0.2), math.log(0.5)]))


def test_nucleus_by_hand() -> None:
    """The likeliest tokens until .6 is reached: .5 is not enough, .5 + .3 is."""
    torch.testing.assert_close(nucleus(torch.tensor([[0.2, 0.5, 0.3]]), 0.6), torch.tensor([[0.0, 0.5, 0.3]]))


def test_the_largest_chance_never_draws_a_token_outside_the_nucleus() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).clamp(min=1e-9).log()
    tokens, _ = sample(logits, torch.tensor([1 - 2**-24]), temperature=1.0, top_p=0.6)
    assert tokens.tolist() == [1]


def test_collate_by_hand() -> None:
    """[1 2 | 3] and [4 | 5 6 7]: the tokens 3, 5, 6, 7 are predicted from the columns 1, 0, 1, 2."""
    batch = collate([[1, 2, 3], [4, 5, 6, 7]], [2, 1], pad_id=0)
    assert batch.ids.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    assert batch.where.tolist() == [1, 4, 5, 6]
    assert batch.targets.tolist() == [3, 5, 6, 7]
    assert batch.ends.tolist() == [2, 7]
    assert batch.sum_by_answer(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [1.0, 9.0]


def test_read_only_uint16_arrays_are_prompts_too(model: Any) -> None:
    prompts = [np.array(prompt, np.uint16) for prompt in PROMPTS]
    for prompt in prompts:
        prompt.flags.writeable = False
    assert draw(model, prompts).answers == draw(model, PROMPTS).answers


def test_generation_stops_where_the_context_is_full(model: Any) -> None:
    result = draw(model, [[3] * 30], max_new_tokens=9, end_ids=[])
    assert len(result.answers[0]) == 2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_room_of_a_prompt_does_not_depend_on_its_batch(model: Any, kind: str) -> None:
    """GPT-2 has a table of 32 positions, so that a position beyond the context would be an error."""
    if kind == "gpt2":
        torch.manual_seed(0)
        shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_positions=32, **shape)).eval()
    prompts = [[3] * 30, [4, 5], [6] * 25]
    together = draw(model, prompts, max_new_tokens=40, end_ids=[], temperature=0)
    assert [len(answer) for answer in together.answers] == [2, 30, 7]
    alone = [draw(model, [prompt], max_new_tokens=40, end_ids=[], temperature=0).answers[0] for prompt in prompts]
    assert together.answers == alone


def test_batches_are_bounded_by_tokens_and_pairs_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_BATCH_TOKENS", 20)
    monkeypatch.setattr(answers, "MAX_BATCH_TOKEN_PAIRS", 100)
    lengths = [9, 1, 4, 4, 30, 2, 4]
    assert list(answers.batches_by_length(lengths, 4)) == [[1, 5, 2, 3], [6], [0], [4]]
    assert list(answers.batches_by_length(lengths, 2, num_new_tokens=3)) == [[1, 5], [2, 3], [6], [0], [4]]
    assert list(answers.batches_by_length([], 4)) == []


def test_small_batches_change_no_result(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [prompt + prompt for prompt in PROMPTS]
    lengths = [len(prompt) for prompt in PROMPTS]
    texts = draw(model, PROMPTS)
    expected = log_probabilities(model, sequences, lengths)
    counts: list[int] = []
    monkeypatch.setattr(answers, "MAX_BATCH_TOKENS", 16)
    monkeypatch.setattr(answers, "MAX_LOGITS", 48)
    assert draw(model, PROMPTS, on_answers=counts.append).answers == texts.answers
    assert counts == [1, 1, 1, 1, 1]
    for small, large in zip(log_probabilities(model, sequences, lengths), expected, strict=True):
        torch.testing.assert_close(small, large)


@pytest.mark.parametrize(
    ("prompts", "message"), [([[1], []], "a prompt is empty"), ([[3] * 32], "fills the model's context")]
)
def test_prompts_that_cannot_be_answered(model: Any, prompts: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw(model, prompts)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft 0.21 asks transformers 5.23 what is deprecated there
@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig", "PrefixTuningConfig"])
def test_learned_prompts_stand_before_every_text(model: Any, kind: str) -> None:
    import peft

    torch.manual_seed(0)
    prefixed_model = peft.get_peft_model(
        copy.deepcopy(model), getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval()
    result = draw(prefixed_model, PROMPTS, temperature=0.0, max_new_tokens=4)
    assert result.answers != draw(model, PROMPTS, temperature=0.0, max_new_tokens=4).answers
    again = log_probabilities(
        prefixed_model, [p + a for p, a in zip(PROMPTS, result.answers, strict=True)], [5, 2, 1, 3, 7]
    )
    for prompt, answer, log_probs, second in zip(PROMPTS, result.answers, result.log_probs, again, strict=True):
        ids = list(prompt)
        for token, log_prob in zip(answer, log_probs, strict=True):
            expected = prefixed_model(torch.tensor([ids])).logits[0, -1].detach().log_softmax(-1)
            assert token == int(expected.argmax())
            assert float(log_prob) == pytest.approx(float(expected[token]), abs=1e-4)
            ids.append(token)
        torch.testing.assert_close(second, log_probs, atol=1e-4, rtol=0)
