"""LoRA on a base whose vocabulary was extended: the rows of new tokens are trained and saved with the adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import models
from tasks.causal import heads
from tasks.reports import Timings
from tasks.training import adapters
from tasks.training.adapters import AdapterParams
from tasks.training.stages import sft
from tests.test_chat_templates import CHATML, with_template
from tests.tokenization import corpus
from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize
from tests.training.models import small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
LORA = AdapterParams.model_validate({"name": "lora", "rank": 2})


def extended(tied: bool) -> Any:
    """A Llama of 300 tokens with five new ones."""
    model, tokenizer = small_model("llama", tie_embeddings=tied), corpus.tokenizer()
    tokenizer.add_tokens([f"<new {number}>" for number in range(5)])
    models.fit_vocabulary(model, corpus.tokenizer(), tokenizer, "base")
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_new_tokens_are_trained_and_the_chunked_loss_sees_them(tied: bool) -> None:
    base = extended(tied)
    before = [layer().weight.detach().clone() for layer in (base.get_input_embeddings, base.get_output_embeddings)]
    model = adapters.attach(base, LORA, 0)
    trained = [parameter for name, parameter in model.named_parameters() if "trainable_tokens_delta" in name]
    assert [tuple(parameter.shape) for parameter in trained] == [(5, 32)] * (1 if tied else 2)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(1.0)
    head = heads.logits(model, torch.eye(32)).T  # the states of the rows of a unit matrix give the matrix
    torch.testing.assert_close(head[300:], before[1][300:] + 1)
    assert torch.equal(head[:300], before[1][:300])
    merged = model.merge_and_unload()
    for layer, old in zip((merged.get_input_embeddings, merged.get_output_embeddings), before, strict=True):
        torch.testing.assert_close(layer().weight[300:], old[300:] + 1)
        assert torch.equal(layer().weight[:300], old[:300])


def test_without_new_tokens_lora_trains_its_matrices_only() -> None:
    model = adapters.attach(small_model("llama"), LORA, 0)
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_sft_trains_the_tokens_of_the_template_and_peft_alone_loads_them(tmp_path: Path) -> None:
    from peft import PeftModel

    write_curated(tmp_path)
    with_template(CHATML).save_pretrained(tmp_path / "foreign")
    tokenizer = tokenize(tmp_path, tokenizer=str(tmp_path / "foreign"))
    models.save(tmp_path / "base", small_model("llama"), corpus.tokenizer(), {"stage": "base"})
    base, own = models.load_causal(tmp_path / "base")
    models.fit_vocabulary(base, own, tokenizer, "base")
    models.save(tmp_path / "models/pretrain", base, tokenizer, {"kind": "pretrain", "params": {"steps": 9}})
    special = sorted(set(tokenizer.all_special_ids) - set(own.all_special_ids))
    saved = models.load_causal(tmp_path / "models/pretrain")[0]
    assert models.new_token_ids(saved) == special, "documents have no special tokens"
    params = sft.Params(adapter=LORA, steps=6, global_batch_size=4, device="cpu", num_threads=1, learning_rate=0.01)
    sft.train(params, tmp_path, tmp_path / "checkpoints", Timings("sft", tmp_path / "timings"))
    result, _ = models.load_causal(tmp_path / "models/sft")
    assert models.new_token_ids(result) == [], "they are trained now"
    changed = (result.get_input_embeddings().weight != saved.get_input_embeddings().weight).any(1).nonzero()[:, 0]
    assert {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")} <= set(changed.tolist())
    assert set(changed.tolist()) <= set(special)
    with_adapter = PeftModel.from_pretrained(saved, tmp_path / "models/sft/adapter").eval()
    ids = torch.tensor([[1, special[0], 40, special[1]]])
    with torch.no_grad():
        torch.testing.assert_close(with_adapter(ids).logits, result(ids).logits, atol=1e-5, rtol=1e-4)
