"""Metrics of real, tiny models, against the same number computed directly, one sequence at a time."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import tokens
from tasks.evaluation import scoring
from tasks.evaluation.inputs import EvaluationInputs, NotMeasured, SamplingParams
from tasks.evaluation.metrics import kl, multiple_choice, perplexity, samples
from tasks.files import write_json
from tasks.models import LEFT_OUT
from tests.evaluation import small


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> EvaluationInputs:
    data = small.write_project(tmp_path_factory.mktemp("data"))
    return EvaluationInputs(data, SamplingParams(policies=small.POLICIES, num_prompts=6, max_new_tokens=8))


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(inputs: EvaluationInputs) -> None:
    """All weights zero: every token has probability 1 / 262, and each token of this text is one byte."""
    model = inputs.model("pretrain")
    original = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        for parameter in model.parameters():
            parameter.data.zero_()
        scores = perplexity.measure(inputs, perplexity.Params(sequence_length=8)).scores
    finally:
        model.load_state_dict(original)
    assert scores["perplexity"].value == pytest.approx(262, abs=1e-3)
    assert scores["perplexity"].n == 3
    assert scores["uniform_perplexity"].value == 262
    assert scores["bits_per_byte"].value == pytest.approx(math.log2(262), abs=1e-5)
    assert scores["bigram_perplexity"].value < scores["unigram_perplexity"].value < 262


def test_packed_rows_give_the_loss_of_each_document_alone(inputs: EvaluationInputs) -> None:
    model, stream = inputs.model("pretrain"), inputs.stream()
    nats = np.concatenate(scoring.stream_nats(model, stream, [0], len(stream.ids), 4))
    begins = [*np.flatnonzero(stream.positions == 0), len(stream.ids)]
    for begin, end in pairwise(begins):
        ids = torch.from_numpy(stream.ids[begin:end].astype(np.int64))[None]
        alone = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        assert nats[begin : end - 1] == pytest.approx(alone.detach().numpy(), abs=1e-5)


def test_every_target_counts_once_whatever_the_rows(inputs: EvaluationInputs) -> None:
    stream = inputs.stream()
    for length in (4, 7, 100):
        params = perplexity.Params(sequence_length=length)
        _, targets, documents, _ = perplexity.targets_of_rows(stream, perplexity.choose_rows(stream, params), length)
        assert targets.tolist() == stream.ids[stream.positions > 0].tolist()
        assert len(np.unique(documents)) == 3


def test_fewer_tokens_are_spread_over_the_stream(inputs: EvaluationInputs) -> None:
    stream = inputs.stream()
    assert perplexity.choose_rows(stream, perplexity.Params(sequence_length=2, max_tokens=6)) == [0, 9, 18]


def test_token_bytes_add_up_to_the_text() -> None:
    text, tokenizer = "naïve 三百二十一", small.tokenizer()
    sizes = perplexity.token_bytes(tokenizer, 300)
    assert sizes[small.encode(text)].sum() == len(text.encode())
    assert sizes[small.END] == 0
    assert sizes[262:].sum() == 0


def test_divergence_of_a_model_from_itself_is_nothing(inputs: EvaluationInputs) -> None:
    model = inputs.model("sft")
    kl, k1 = scoring.answer_divergences(model, model, [[1, 2], [1]], [[7, 8, 5], [9]], 8)
    assert kl == pytest.approx([0, 0], abs=1e-6)
    assert k1 == pytest.approx([0, 0], abs=1e-6)


def test_divergence_by_plain_arithmetic(inputs: EvaluationInputs) -> None:
    policy, reference = inputs.model("ppo"), inputs.model("sft")
    prompt, answer = small.prompt_ids("say one"), [10, 11, small.END]
    kl, k1 = scoring.answer_divergences(policy, reference, [[1], prompt], [[9], answer], 8)
    ids = torch.tensor([prompt + answer])
    p, q = (model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (policy, reference))
    assert kl[1] == pytest.approx(float((p.exp() * (p - q)).sum().detach()), rel=1e-4)
    of_targets = (p - q)[torch.arange(3), torch.tensor(answer)]
    assert k1[1] == pytest.approx(float(of_targets.sum().detach()), abs=1e-5)


def test_both_estimates_of_kl_agree(inputs: EvaluationInputs) -> None:
    scores = kl.measure(inputs, kl.Params()).scores
    assert scores["kl"]["sft"].value == 0
    for name in ("ppo", "dpo"):
        assert scores["kl"][name].value > 0
        assert scores["kl"][name].n == 6
        assert scores["kl_k1"][name].low - 0.2 < scores["kl"][name].value < scores["kl_k1"][name].high + 0.2


def test_rewards_do_not_depend_on_the_batch(inputs: EvaluationInputs) -> None:
    sequences = [[1, 3, 40, 5, 4, 50, 5], [1, 3, 41, 5, 4, 5], [1, 9]]
    together = inputs.rewards(sequences)
    assert together == pytest.approx([float(inputs.rewards([ids])[0]) for ids in sequences], abs=1e-5)


def test_options_are_four_different_answers_with_the_right_one_first(inputs: EvaluationInputs) -> None:
    params = multiple_choice.Params(num_questions=5)
    for questions in (
        multiple_choice.number_questions(inputs, params),
        multiple_choice.document_questions(inputs, params),
    ):
        assert len(questions) == 5
        assert all(len(set(options)) == 4 for _, options in questions)
    prompt, options = multiple_choice.document_questions(inputs, params)[0]
    assert (prompt, options[0]) == (small.prompt_ids("what is one?"), "one is a number")
    scores = multiple_choice.measure(inputs, params).scores["multiple_choice"]
    assert scores["chance"] == 0.25
    assert scores["documents"]["ppo"].n == 5


def test_samples_have_one_column_per_model(inputs: EvaluationInputs) -> None:
    rows = samples.measure(inputs, samples.Params(num_prompts=2)).tables["samples"]
    assert [row["prompt"] for row in rows] == ["say one", "say eight", "what is one?", "what is eight?"]
    assert list(rows[0]) == ["prompt", "expected", "pretrain", "sft", "ppo", "dpo"]
    assert rows[2]["expected"] == "one is a number"


def test_the_same_seed_gives_the_same_answers(inputs: EvaluationInputs) -> None:
    again = EvaluationInputs(inputs.data, inputs.params)
    assert again.answers("sft", greedy=False) == inputs.answers("sft", greedy=False)
    assert again.answers("sft", greedy=True) == inputs.answers("sft", greedy=True)


def test_prompts_that_occur_in_training_are_left_out(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    prompts = data / "tokens/prompts"
    tokens.write_ragged(prompts / "train", [small.prompt_ids("say one")], small.VOCAB_SIZE)
    texts = [prompt.text for prompt in EvaluationInputs(data, SamplingParams(policies=small.POLICIES)).prompts]
    assert texts == [f"say {word}" for word in small.WORDS[1:]]
    test_prompts = tokens.read_ragged(prompts / "test")
    tokens.write_ragged(prompts / "train", [test_prompts[i].tolist() for i in range(16)], small.VOCAB_SIZE)
    with pytest.raises(NotMeasured, match="no prompt to measure with: each of them also occurs in the split 'train'"):
        _ = EvaluationInputs(data, SamplingParams(policies=small.POLICIES)).prompts


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    params = SamplingParams(policies=small.POLICIES, max_new_tokens=4, max_length=15)
    inputs = EvaluationInputs(data, params)
    assert [prompt.text for prompt in inputs.prompts] == ["say one", "say two", "say six"]
    assert max(len(pair.prompt) + len(pair.chosen) for pair in inputs.pairs) == 14
    assert inputs.left_out_notes == [
        "13 of 16 test prompts are longer than 11 tokens, so that 4 more would exceed evaluation.max_length (15)",
        "3 of 8 test preferences are longer than evaluation.max_length (15)",
    ]
    with pytest.raises(NotMeasured, match=r"all 16 prompts .* would exceed the context \(128\)"):
        _ = EvaluationInputs(data, SamplingParams(policies=small.POLICIES, max_new_tokens=126)).prompts


def test_pairs_need_the_reward_model_only(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    write_json(data / "models/sft" / LEFT_OUT, {"reason": "there are no conversations", "base": None})
    inputs = EvaluationInputs(data, SamplingParams(policies=small.POLICIES))
    assert len(inputs.pairs) == 8
    with pytest.raises(NotMeasured, match="sft was left out"):
        _ = inputs.prompts
