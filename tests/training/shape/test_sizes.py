"""The param `size` sets every number that the section does not set itself."""

import pytest
from pydantic import ValidationError

from tasks.training.loop.params import LoopParams
from tasks.training.shape import sizes
from tasks.training.stages import pretrain


def test_gpt3_by_hand() -> None:
    """12 x 96 x 12288^2 = 173,946,175,488 weights in the blocks, 20 tokens for each."""
    params = pretrain.Params(size="gpt3")
    assert sizes.num_weights(params.model.model_dump()) == 173_946_175_488
    tokens = params.steps * params.global_batch_size * params.sequence_length
    assert tokens == pytest.approx(20 * 173_946_175_488, rel=1e-3)
    assert (params.model.kind, params.sequence_length, params.model.max_length) == ("gpt2", 2048, 2048)


def test_the_rule_gives_the_numbers_of_its_authors() -> None:
    """DeepSeek LLM 7B: 2T tokens, learning rate 4.2e-4, batches of 2304 rows of 4096 (arXiv:2401.02954, table 2)."""
    flops = sizes.compute(6.9e9, 2e12)
    assert sizes.learning_rate(flops) == pytest.approx(4.2e-4, rel=0.05)
    assert sizes.batch_tokens(flops) == pytest.approx(2304 * 4096, rel=0.05)


@pytest.mark.parametrize("size", sizes.SHAPES)
def test_every_size_is_valid_and_larger_ones_have_smaller_learning_rates(size: str) -> None:
    params = pretrain.Params.model_validate({"size": size})
    assert params.model.width == sizes.SHAPES[size].width
    assert params.learning_rate <= sizes.learning_rate(sizes.compute(786_432, 20 * 786_432))
    assert pretrain.Params.model_validate(params.model_dump(mode="json")) == params


def test_keys_of_the_section_take_precedence() -> None:
    section = {"learning_rate": 0.5, "steps": 7, "global_batch_size": 3, "sequence_length": 64}
    params = pretrain.Params.model_validate({"size": "nano", **section, "model": {"kind": "qwen3", "num_layers": 5}})
    assert params.model_dump(include=set(section)) == section
    assert (params.model.kind, params.model.num_layers, params.model.width) == ("qwen3", 5, 128)


def test_the_shape_of_the_section_changes_the_other_numbers() -> None:
    """Twice the layers: twice the tokens."""
    one, two = (pretrain.Params.model_validate({"size": "nano", "model": {"num_layers": n}}) for n in (4, 8))
    assert two.steps * two.global_batch_size == pytest.approx(2 * one.steps * one.global_batch_size, rel=1e-2)
    assert two.learning_rate < one.learning_rate


def test_a_size_of_an_encoder() -> None:
    params = pretrain.Params.model_validate({"size": "gpt2", "objective": "masked"})
    assert (params.model.kind, params.model.width) == ("modernbert", 768)


def test_without_a_size_nothing_changes() -> None:
    assert pretrain.Params.model_validate({}).steps == LoopParams.model_fields["steps"].default
    with pytest.raises(ValidationError, match="'nano', 'micro'"):
        pretrain.Params.model_validate({"size": "giant"})
    with pytest.raises(ValidationError, match="valid dictionary"):
        pretrain.Params.model_validate({"size": "nano", "model": 3})
