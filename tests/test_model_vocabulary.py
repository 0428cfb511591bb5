"""A model whose tokenizer was extended: new embeddings are means of old ones, which do not change."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import models
from tasks.tokenization import bpe, merging
from tasks.training.shape.architecture import all_objectives
from tests.test_chat_templates import CHATML, with_template
from tests.tokenization import corpus
from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize
from tests.training.models import small_model
from tests.training.stages.test_stages import run_pretrain

NEW_TEXTS = ["a zebra zooms", "zebras zigzag"] * 3


@pytest.mark.parametrize("kind", all_objectives())
@pytest.mark.parametrize("tied", [True, False])
def test_new_embeddings_are_means_of_their_pieces(tied: bool, kind: str) -> None:
    model, tokenizer = small_model(kind, tie_embeddings=tied), corpus.tokenizer()
    extended = merging.extend(corpus.tokenizer(), NEW_TEXTS, 10)
    extended.add_tokens(["zebra crossing"])
    extended.add_special_tokens({"mask_token": "<mask>"})
    layers = model.get_input_embeddings, model.get_output_embeddings
    before = [layer().weight.detach().clone() for layer in layers]
    models.fit_vocabulary(model, tokenizer, extended, "base")
    assert len(extended) == 312
    for layer, old in zip(layers, before, strict=True):
        table = layer().weight
        assert table.shape == (312, 32)
        assert torch.equal(table[:300], old)
        pieces = tokenizer("zebra crossing", add_special_tokens=False).input_ids
        torch.testing.assert_close(table[extended.convert_tokens_to_ids("zebra crossing")], old[pieces].mean(0))
        torch.testing.assert_close(table[extended.mask_token_id], old.mean(0))
        new_token = extended.convert_ids_to_tokens(305)
        pieces = [piece.id for piece in tokenizer.backend_tokenizer.model.tokenize(new_token)]
        assert len(pieces) > 1
        torch.testing.assert_close(table[305], old[pieces].mean(0))
    assert (layers[0]().weight is layers[1]().weight) == (tied or kind == "t5")
    with torch.no_grad():
        ids = torch.tensor([[7, 311]])
        inputs = {"input_ids": ids} | ({"labels": ids} if kind == "t5" else {})
        assert model(**inputs).logits.shape == (1, 2, 312)


def test_spare_embeddings_of_a_checkpoint_are_initialized_too() -> None:
    """A checkpoint with more embeddings than tokens, as Qwen's."""
    model, tokenizer = small_model("llama"), corpus.tokenizer(290)
    extended = corpus.tokenizer(290)
    extended.add_tokens(["the cat"])
    old = model.get_input_embeddings().weight.detach().clone()
    models.fit_vocabulary(model, tokenizer, extended, "base")
    table = model.get_input_embeddings().weight
    assert table.shape == (300, 32)
    torch.testing.assert_close(table[290], old[tokenizer("the cat", add_special_tokens=False).input_ids].mean(0))
    assert torch.equal(table[:290], old[:290])


def test_a_base_is_trained_further_with_an_extended_tokenizer(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_curated(base)
    tokenize(base)
    run_pretrain(base, steps=5)
    fresh = tmp_path / "fresh"
    write_curated(fresh)
    extended: Any = tokenize(fresh, tokenizer=str(base / "models/pretrain"), new_tokens=12)
    assert len(extended) == 312
    assert extended.chat_template == bpe.CHAT_TEMPLATE
    shutil.copytree(base / "models/pretrain", fresh / "base")
    run_pretrain(fresh, steps=5, base=str(fresh / "base"))
    model, tokenizer = models.load_causal(fresh / "models/pretrain")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 312


def test_the_end_tokens_of_a_base_are_kept_and_that_of_the_template_is_added(tmp_path: Path) -> None:
    """Plain transformers reads from the saved folder where an answer ends."""
    model, tokenizer = small_model("llama"), with_template(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = [3, tokenizer.eos_token_id]
    models.fit_vocabulary(model, corpus.tokenizer(), tokenizer, "base")
    models.save(tmp_path, model, tokenizer, {"stage": "sft"})
    loaded, _ = models.load_causal(tmp_path)
    assert loaded.generation_config is not None
    assert loaded.generation_config.eos_token_id == [tokenizer.eos_token_id, end, 3]
    assert loaded.config.eos_token_id == tokenizer.eos_token_id


def test_one_end_token_is_saved_as_one_number(tmp_path: Path) -> None:
    tokenizer = corpus.tokenizer()
    models.save(tmp_path, small_model("llama"), tokenizer, {"stage": "sft"})
    loaded, _ = models.load_causal(tmp_path)
    assert loaded.generation_config is not None
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
