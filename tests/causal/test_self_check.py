"""The self-check selects a slower method where a fast one would give other numbers than the model alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from tasks.answers import log_probabilities
from tasks.causal import attention, methods, remembered, self_check
from tasks.causal.methods import Methods
from tasks.causal.self_check import Needs, measure
from tasks.errors import BadModel
from tasks.training import adapters
from tasks.training.stages.reward import with_head
from tests.training import tiny
from tests.training.models import small_model

SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "initializer_range": 0.3,
}  # fmt: skip
ALL = Needs("auto", "auto", "auto", "auto", max_length=64)


def llama(kind: Any = LlamaForCausalLM, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(LlamaConfig(**{**SHAPE, **changes})).eval()


def methods_of(model: Any, needs: Needs = ALL) -> Methods:
    return measure(model, needs, special_ids=[0, 1, 2], pad_id=0).methods


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "qwen3_moe"])
def test_the_default_families_use_the_fast_methods(kind: str) -> None:
    model = small_model(kind)
    result = measure(model, ALL, special_ids=[0, 1, 2], pad_id=0)
    assert result == self_check.Result(Methods())
    assert methods.of(model) == Methods(), "the check itself chooses nothing"
    assert model.config._attn_implementation == "sdpa"


class WithMemory(LlamaForCausalLM):  # type: ignore[misc]
    """Adds the mean of all earlier states of the row, whichever document they belong to."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.norm.register_forward_hook(lambda _, __, states: states + states.cumsum(1) / 50)


def test_a_memory_across_documents_excludes_packing_and_shared_prompts() -> None:
    result = measure(llama(WithMemory), Needs("auto", "auto", "auto"), special_ids=[0], pad_id=0)
    assert (result.methods.packing, result.methods.pairs) == ("none", "separate")
    assert any(note.startswith("packing: none was selected, which is slower, because") for note in result.notes)
    with pytest.raises(BadModel, match=r"packed rows differ by .* nats .*Set packing: none or packing: auto"):
        methods_of(llama(WithMemory), Needs(packing="rows"))
    with pytest.raises(BadModel, match=r"share a prompt differ by .*Set pairs: separate or pairs: auto"):
        methods_of(llama(WithMemory), Needs(pairs="shared"))


class WithScaledLogits(LlamaForCausalLM):  # type: ignore[misc]
    """Scales the logits by their place in the text, so that they are no function of one hidden state."""

    def forward(self, *args: Any, **inputs: Any) -> Any:
        output = super().forward(*args, **inputs)
        output.logits = output.logits * torch.linspace(0.5, 2, output.logits.shape[1] + 9)[9:, None]
        return output


class WithPlacedLogits(LlamaForCausalLM):  # type: ignore[misc]
    """Adds the place in the text to the logit of the first token."""

    def forward(self, *args: Any, **inputs: Any) -> Any:
        output = super().forward(*args, **inputs)
        place = torch.arange(output.logits.shape[1], dtype=torch.float32)
        output.logits = output.logits + nn.functional.pad(place[:, None], (0, output.logits.shape[2] - 1))
        return output


def test_logits_that_are_no_function_of_one_state_need_the_loss_of_the_model() -> None:
    result = measure(llama(WithPlacedLogits), Needs("auto", "auto"), special_ids=[0], pad_id=0)
    assert (result.methods.loss, result.methods.packing) == ("model", "none")
    with pytest.raises(BadModel, match="Set loss: model or loss: auto"):
        methods_of(llama(WithPlacedLogits), Needs("auto", "chunked"))
    with pytest.raises(BadModel, match="cannot be used here"):
        methods_of(llama(WithPlacedLogits), Needs(pairs="auto", states=True))


def test_evaluation_and_preferences_read_the_logits_of_such_a_model() -> None:
    """The place in the text counts from the first token of each text, also beside a longer text and for answers."""
    model = llama(WithPlacedLogits)
    result = measure(model, Needs(packing="auto", pairs="auto", generation="auto"), special_ids=[0], pad_id=0)
    assert result.methods.pairs == "separate"
    assert result.methods.generation == "model"
    assert "loss: model was selected" in result.notes[0]
    methods.choose(model, result.methods)
    texts = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    actual = log_probabilities(model, texts, [2, 1])
    for text, start, numbers in zip(texts, [2, 1], actual, strict=True):
        own = model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
        expected = torch.stack([own[place - 1, text[place]] for place in range(start, len(text))])
        torch.testing.assert_close(numbers, expected)


def test_a_model_without_numbers_of_its_own_is_refused() -> None:
    """These logits depend on the length of the text that they are computed for, with padding."""
    with pytest.raises(BadModel, match="WithScaledLogits failed the self-check"):
        methods_of(llama(WithScaledLogits))


def test_a_state_that_padding_changes_excludes_cached_generation() -> None:
    torch.manual_seed(0)
    model: Any = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    chosen = methods_of(model)
    assert (chosen.packing, chosen.pairs, chosen.generation) == ("none", "separate", "model")
    with pytest.raises(BadModel, match="Set generation: model"):
        methods_of(model, Needs(generation="cached"))


def test_a_window_by_place_excludes_shared_prompts() -> None:
    """GPT-Neo's local layers count the distance of two tokens by their places in the row."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
        window_size=6, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    chosen = methods_of(GPTNeoForCausalLM(config).eval())
    assert (chosen.packing, chosen.pairs) == ("rows", "separate")


def test_windows_longer_than_the_texts_of_the_check_are_shortened_for_it() -> None:
    """A window of 512 by place would differ only in rows that are longer than the check's."""
    model = llama()
    model.config.sliding_window = 512
    with self_check._short_windows(model):
        assert model.config.sliding_window == self_check.SHORT_WINDOW
    assert model.config.sliding_window == 512


def test_an_unknown_setting_of_the_attention_is_refused_by_ours() -> None:
    model = llama()
    original = model.model.layers[0].self_attn.forward
    model.model.layers[0].self_attn.forward = lambda *args, **inputs: original(*args, **inputs, temperature=2.0)
    chosen = methods_of(model, Needs("auto"))
    assert chosen.attention == "eager"
    with attention.packed(model), pytest.raises(BadModel, match="passes 'temperature' to its attention"):
        model(torch.tensor([[3, 4]]))


def test_dynamic_positions_are_refused_beyond_the_context() -> None:
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = llama(max_position_embeddings=32, rope_parameters=parameters)
    assert methods_of(model, Needs("auto", max_length=32)).packing == "rows"
    with pytest.raises(BadModel, match="kind dynamic: in texts of more than 32 tokens"):
        methods_of(model, Needs("auto", max_length=33))


def test_longrope_reads_texts_of_one_length_at_a_time_beyond_the_original_context() -> None:
    factors = [1.0] * 4
    parameters = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": factors}
    parameters["original_max_position_embeddings"] = 32
    model = llama(max_position_embeddings=128, rope_parameters=parameters)
    assert not methods_of(model, Needs("auto", max_length=32)).equal_lengths
    chosen = methods_of(model, Needs("auto", max_length=64))
    assert (chosen.equal_lengths, chosen.packing) == (True, "none")


def test_zeros_are_filled_for_the_check_and_restored() -> None:
    """Behind an adapter whose second matrix is zero, or blocks that begin as the identity, nothing could be seen."""
    model = small_model("llama", zero_outputs=True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert any(not parameter.any() for parameter in before.values())
    with self_check._nonzero_weights(model):
        assert all(parameter.any() for name, parameter in model.named_parameters() if parameter.ndim > 1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("section", ["lora", "ia3", "prompt_tuning", "prefix_tuning"])
def test_adapters(section: str) -> None:
    settings: dict[str, Any] = {"name": section} | ({"num_virtual_tokens": 3} if "tuning" in section else {})
    model = adapters.attach(small_model(), adapters.AdapterParams.model_validate(settings), 0)
    assert methods_of(model, Needs("auto", "auto")) == Methods()


def test_a_reward_model() -> None:
    model = with_head(tiny.model(), 0).eval()
    assert methods_of(model, Needs(pairs="auto")) == Methods()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remembered, "FOLDER", tmp_path)
    return tmp_path


def test_a_check_is_remembered_by_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, model = tiny.tokenizer(), llama(WithMemory)
    notes = remembered.prepare(model, tokenizer, Needs("auto"))
    assert methods.of(model).packing == "none"
    monkeypatch.setattr(self_check, "measure", None)
    again = llama(WithMemory)
    assert remembered.prepare(again, tokenizer, Needs("auto")) == notes
    assert methods.of(again).packing == "none"
    for other, needs in ((llama(WithMemory, rms_norm_eps=0.1), Needs("auto")), (again, Needs("rows"))):
        with pytest.raises(TypeError, match="NoneType"):
            remembered.prepare(other, tokenizer, needs)


def test_not_a_number_is_reported_with_the_weight_that_contains_it() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(BadModel, match=r"NaN.*model\.layers\.1\.mlp\.up_proj\.weight"):
        methods_of(model)


def test_the_check_does_not_change_random_numbers() -> None:
    torch.manual_seed(1)
    expected: Tensor = torch.rand(3)
    torch.manual_seed(1)
    methods_of(small_model())
    assert torch.equal(torch.rand(3), expected)
