"""Small models of families whose heads, attention, states or classes differ from the default ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from benchmarks.family_configs import FAMILIES
from tasks import answers, models
from tasks.causal import attention, backbone, dropout, heads, methods
from tasks.causal.losses import next_token_loss
from tasks.causal.methods import Methods
from tasks.causal.reward_class import reward_class
from tasks.causal.self_check import Needs, measure
from tasks.generation import generate
from tasks.training import adapters
from tasks.training.stages.reward import with_head
from tests.training import tiny
from tests.training.models import small_model


def family(name: str) -> Any:
    """A tiny model of the benchmark `families`, whose biases and norms are not at their initial values."""
    kind, settings = FAMILIES[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**settings), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


IDS = torch.randint(4, 96, (1, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", ["gemma-2", "cohere", "granite", "phi-1", "gpt-j", "modernbert-decoder", "recurrent-gemma", "mamba"]
)
def test_one_function_turns_states_into_logits(name: str) -> None:
    """Soft-cap, scales, biases and a transforming head; the same in chunks, and for states of any shape."""
    model = family(name)
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        hidden = backbone.alone(model, IDS).hidden
        torch.testing.assert_close(heads.logits(model, hidden), expected)
        torch.testing.assert_close(heads.logits(model, hidden[0, 3:5]), expected[0, 3:5])
        torch.testing.assert_close(heads.logits(model, hidden[0, 3]), expected[0, 3])


def test_only_a_head_that_is_a_matrix_is_used_as_one() -> None:
    assert isinstance(heads.head(small_model()), Tensor)
    for name in ("gemma-2", "cohere", "phi-1", "modernbert-decoder"):
        assert not isinstance(heads.head(family(name)), Tensor)


@pytest.mark.parametrize("name", ["gemma-2", "modernbert-decoder"])
def test_the_chunked_loss_of_such_a_head_has_the_gradients_of_the_model(name: str) -> None:
    targets = IDS.roll(-1, 1)
    gradients = []
    for is_chunked in (False, True):
        model = family(name)
        if is_chunked:
            loss, count = next_token_loss(backbone.alone(model, IDS).hidden, heads.head(model), targets)
            assert count == 20
        else:
            loss = nn.functional.cross_entropy(model(input_ids=IDS).logits[0], targets[0])
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gemma-2", "gpt-oss"])
def test_soft_caps_and_sinks_of_the_attention_are_kept(name: str) -> None:
    model = family(name)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        with attention.packed(model):
            assert model.config._attn_implementation == "athanor"
            torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mistral", "gemma-3", "llama-4"])
def test_windows_and_chunks_count_positions_in_rows(name: str) -> None:
    """[prompt | answer | answer]: the second answer sees as far back as it would without the first."""
    model, prompt, pair = family(name), IDS[0, :8].tolist(), [IDS[0, 8:14].tolist(), IDS[0, 14:].tolist()]
    model.config.floor_scale = 1 << 20  # Llama 4 scales by the place in the row from here on
    from tasks.causal.shared_prompts import collate_by_prompt

    batch = collate_by_prompt([prompt], [pair], 0)
    with torch.no_grad(), attention.packed(model):
        assert batch.positions is not None
        states = backbone.with_layout(model, batch.ids, batch.positions, batch.part).hidden[0]
        alone = backbone.alone(model, torch.tensor([prompt + pair[1]])).hidden[0]
    if name != "llama-4":
        torch.testing.assert_close(states[14:], alone[8:], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("equal_lengths", [False, True])
def test_documents_are_read_by_themselves(equal_lengths: bool) -> None:
    """Also the recurrent state of Mamba then begins anew, and every state is at its place in the row."""
    model = family("mamba")
    methods.choose(model, replace(Methods(), packing="none", equal_lengths=equal_lengths))
    positions = torch.tensor([[*range(9), *range(1), *range(10)], [*range(4), *range(16)]])
    ids = torch.cat((IDS, IDS.flip(1)))
    with torch.no_grad():
        together = backbone.last_hidden(model, ids, positions)
        parts = [[ids[0, :9], ids[0, 9:10], ids[0, 10:]], [ids[1, :4], ids[1, 4:]]]
        alone = [torch.cat([model.backbone(input_ids=p[None])[0][0] for p in row]) for row in parts]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mamba", "rwkv", "llama"])
def test_generation_by_the_model_itself(name: str) -> None:
    """The same answers, log-probabilities and values for every batch, with our random numbers."""
    model, prompts = family(name), [IDS[0, :5].tolist(), IDS[0, 3:6].tolist(), IDS[0, 5:10].tolist()]
    methods.choose(model, measure(model, Needs(generation="model"), special_ids=[0], pad_id=0).methods)
    assert methods.of(model).one_prompt == (name == "rwkv"), "its state mixes the rows of a batch"
    settings: dict[str, Any] = {"max_new_tokens": 6, "end_ids": [7, 8], "pad_id": 0, "top_p": 0.9}
    head = nn.Linear(32, 1)
    results = []
    for size in (1, 8):
        generator = torch.Generator().manual_seed(1)
        results.append(generate(model, prompts, generator=generator, value_head=head, batch_size=size, **settings))
    assert results[0].answers == results[1].answers
    sequences = [prompt + answer for prompt, answer in zip(prompts, results[0].answers, strict=True)]
    again = answers.log_probabilities(model, sequences, [len(prompt) for prompt in prompts])
    for first, other, expected in zip(results[0].log_probs, results[1].log_probs, again, strict=True):
        torch.testing.assert_close(first, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(other, expected, atol=1e-4, rtol=0)
    assert results[0].values is not None
    assert [len(values) for values in results[0].values] == [len(answer) for answer in results[0].answers]


def test_generation_by_the_model_itself_equals_cached_generation() -> None:
    prompts = [IDS[0, :5].tolist(), IDS[0, 3:6].tolist()]
    results = []
    for method in ("cached", "model"):
        model = family("llama")
        methods.choose(model, replace(Methods(), generation=method))
        generator = torch.Generator().manual_seed(3)
        results.append(generate(model, prompts, max_new_tokens=7, end_ids=[5], pad_id=0, generator=generator))
    assert results[0].answers == results[1].answers
    assert results[0].finished == results[1].finished


@pytest.mark.parametrize("name", ["mamba", "phi-moe", "falcon-alibi"])
def test_lora_is_added_where_it_has_an_effect(name: str) -> None:
    """Not to weights that are used without a call of their module, nor to routers that return several tensors."""
    model = adapters.attach(family(name), adapters.AdapterParams.model_validate("lora"), 0)
    adapted = {key.split(".lora_")[0].rsplit(".", 1)[-1] for key, p in model.named_parameters() if p.requires_grad}
    assert adapted & {"in_proj", "q_proj", "query_key_value"}
    assert not adapted & {"out_proj", "router"}
    model(input_ids=IDS).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["mamba", "cohere", "modernbert-decoder", "opt-350m"])
def test_every_family_has_a_reward_model(name: str, tmp_path: Path) -> None:
    causal = family(name)
    model = with_head(causal, 0).eval()
    assert type(model) is reward_class(causal.config)
    sequences = [IDS[0].tolist(), IDS[0, :7].tolist()]
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([ids])).logits) for ids in sequences]
    assert answers.reward_scores(model, sequences, pad_id=0).tolist() == pytest.approx(expected, abs=1e-5)
    models.save(tmp_path / "reward", model, tiny.tokenizer(), {"stage": "reward"})
    loaded, _ = models.load_reward(tmp_path / "reward")
    assert answers.reward_scores(loaded, sequences, pad_id=0).tolist() == pytest.approx(expected, abs=1e-5)


def test_dropout_is_off_in_train_mode_and_restored() -> None:
    model = family("gpt-neox").train()
    probabilities = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    with dropout.without_dropout(model) as has_dropout:
        assert has_dropout
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == probabilities
    assert model.config.attention_dropout == 0.1
    with dropout.without_dropout(small_model()) as has_dropout:
        assert not has_dropout


def test_the_configurations_of_the_benchmark() -> None:
    assert len(FAMILIES) == 60
    for kind, settings in FAMILIES.values():
        assert getattr(transformers, kind)(**settings).get_text_config().vocab_size == 96
