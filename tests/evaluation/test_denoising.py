"""Metrics of encoders and encoder-decoders, on models with zero weights and against one forward pass per text."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from tasks import corruption
from tasks import models as folders
from tasks.errors import BadModel, BadParams
from tasks.evaluation import denoising
from tasks.evaluation.inputs import EvaluationInputs, NotMeasured, SamplingParams
from tasks.evaluation.metrics import denoising_loss, masked_accuracy, perplexity, pseudo_perplexity
from tests.evaluation import small

METRICS = (masked_accuracy, pseudo_perplexity, denoising_loss)


def seeded(make: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(config).eval()


def inputs_with(data: Path, model: Any, tokenizer: Any) -> EvaluationInputs:
    small.write_project(data)
    folders.save(data / "models/pretrain", model, tokenizer, {"stage": "pretrain"})
    return EvaluationInputs(data, SamplingParams(policies=small.POLICIES))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> EvaluationInputs:
    tokenizer = corruption.with_mask_token(small.tokenizer())
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, pad_token_id=0)  # fmt: skip
    return inputs_with(tmp_path_factory.mktemp("masked"), seeded(BertForMaskedLM, config), tokenizer)


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> EvaluationInputs:
    tokenizer = corruption.with_sentinels(small.tokenizer(), 2)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0,
                      eos_token_id=5, decoder_start_token_id=0, dropout_rate=0.0)  # fmt: skip
    return inputs_with(tmp_path_factory.mktemp("span"), seeded(T5ForConditionalGeneration, config), tokenizer)


def set_weights_to_zero(inputs: EvaluationInputs, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set all weights to zero, so that every token has the same probability; returns the size of the vocabulary."""
    model, tokenizer = inputs.load_pretrained("pretrain")
    for parameter in model.parameters():
        parameter.data.zero_()
    monkeypatch.setattr(inputs, "load_pretrained", lambda name: (model, tokenizer))
    return len(tokenizer)


def test_an_encoder_that_knows_nothing(masked: EvaluationInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    size = set_weights_to_zero(masked, monkeypatch)
    scores = masked_accuracy.measure(masked, masked_accuracy.Params()).scores
    assert scores["masked_loss"].value == pytest.approx(math.log(size), abs=1e-5)
    assert scores["masked_loss"].n == 3
    assert scores["masked_accuracy"].value == 0
    score = pseudo_perplexity.measure(masked, pseudo_perplexity.Params()).scores["pseudo_perplexity"]
    assert score.value == pytest.approx(size, abs=1e-3)


def test_pseudo_perplexity_one_token_at_a_time(masked: EvaluationInputs) -> None:
    model, tokenizer = masked.load_pretrained("pretrain")
    nats = []
    for text in ("is a rose in spain", "it is", "a plain text"):
        ids = torch.tensor([[small.DOCUMENT, *small.encode(text)]])
        for position in range(1, ids.shape[1]):
            masked_ids = ids.clone()
            masked_ids[0, position] = tokenizer.mask_token_id
            nats.append(-float(model(masked_ids).logits[0, position].log_softmax(-1)[ids[0, position]].detach()))
    score = pseudo_perplexity.measure(masked, pseudo_perplexity.Params(batch_size=7)).scores["pseudo_perplexity"]
    assert score.value == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)


def test_an_encoder_decoder_that_knows_nothing(span: EvaluationInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    size = set_weights_to_zero(span, monkeypatch)
    scores = denoising_loss.measure(span, denoising_loss.Params(max_length=12)).scores
    assert scores["denoising_loss"].value == pytest.approx(math.log(size), abs=1e-5)
    assert scores["denoising_loss"].n == 3


def test_the_batch_size_changes_no_loss(span: EvaluationInputs) -> None:
    one_by_one, together = (
        denoising_loss.measure(span, denoising_loss.Params(max_length=12, batch_size=size)).scores for size in (1, 16)
    )
    assert one_by_one["denoising_loss"].value == pytest.approx(together["denoising_loss"].value, abs=1e-5)
    with pytest.raises(BadParams, match="a text of 64 tokens has 3 spans, but pretrain has only 2 sentinels"):
        denoising_loss.measure(span, denoising_loss.Params(max_length=64))


def test_each_metric_is_for_its_kind(masked: EvaluationInputs, span: EvaluationInputs, tmp_path: Path) -> None:
    small.write_project(tmp_path)
    causal = EvaluationInputs(tmp_path, SamplingParams(policies=small.POLICIES))

    def is_measured(metric: Any, inputs: EvaluationInputs) -> bool:
        try:
            result = metric.measure(inputs, metric.Params(max_length=12))
        except NotMeasured:
            return False
        assert set(result.scores) == set(metric.SCORES) >= {item.score_name for item in result.items}
        assert len({item.id for item in result.items}) == 3, "one item for each document"
        return True

    measured = {
        kind: [is_measured(metric, inputs) for metric in METRICS]
        for kind, inputs in (("causal", causal), ("masked", masked), ("span", span))
    }
    assert measured == {"causal": [False] * 3, "masked": [True, True, False], "span": [False, False, True]}
    with pytest.raises(NotMeasured, match="does not predict corrupted spans, because its objective is causal"):
        denoising_loss.measure(causal, denoising_loss.Params())
    with pytest.raises(NotMeasured, match="objective is masked"):
        perplexity.measure(masked, perplexity.Params())
    with pytest.raises(BadModel, match="needs the kind decoder"):
        masked.model("pretrain")


def test_documents_are_split_into_chunks() -> None:
    """19, 6 and 13 tokens in chunks of 5; a chunk of one token is left out."""
    stream = small.stream(["is a rose in spain", "it is", "a plain text"])
    chunks = denoising.split_documents(stream, 5, 1000)
    assert [(chunk.document, len(chunk.ids)) for chunk in chunks] == [
        (0, 5), (0, 5), (0, 5), (0, 4), (1, 5), (2, 5), (2, 5), (2, 3),
    ]  # fmt: skip
    assert [chunk.document for chunk in denoising.split_documents(stream, 5, 10)] == [0, 2]
