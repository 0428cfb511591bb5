"""What encoders and encoder-decoders are measured by: zero models by hand, and the same number one text at a time."""

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
from tasks.evaluation import restoring
from tasks.evaluation.evidence import Evidence, Sampling
from tasks.evaluation.metrics import denoising_loss, masked_accuracy, perplexity, pseudo_perplexity
from tests.evaluation import small

METRICS = (masked_accuracy, pseudo_perplexity, denoising_loss)


def seeded(make: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(config).eval()


def evidence_of(data: Path, model: Any, tokenizer: Any) -> Evidence:
    small.world(data)
    folders.save(data / "models/pretrain", model, tokenizer, {"stage": "pretrain"})
    return Evidence(data, Sampling())


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    own = corruption.with_mask_token(small.tokenizer())
    config = BertConfig(vocab_size=len(own), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, pad_token_id=0)  # fmt: skip
    return evidence_of(tmp_path_factory.mktemp("masked"), seeded(BertForMaskedLM, config), own)


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    own = corruption.with_sentinels(small.tokenizer(), 2)
    config = T5Config(vocab_size=len(own), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0,
                      eos_token_id=5, decoder_start_token_id=0, dropout_rate=0.0)  # fmt: skip
    return evidence_of(tmp_path_factory.mktemp("span"), seeded(T5ForConditionalGeneration, config), own)


def silence(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> int:
    """All weights zero, so that every token has the same probability; the size of the vocabulary."""
    model, tokenizer = evidence.pretrained("pretrain")
    for parameter in model.parameters():
        parameter.data.zero_()
    monkeypatch.setattr(evidence, "pretrained", lambda name: (model, tokenizer))
    return len(tokenizer)


def test_an_encoder_that_knows_nothing(masked: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    size = silence(masked, monkeypatch)
    scores = masked_accuracy.measure(masked, masked_accuracy.Params()).scores
    assert scores["masked_loss"].value == pytest.approx(math.log(size), abs=1e-5)
    assert scores["masked_loss"].n == 3
    assert scores["masked_accuracy"].value == 0
    found = pseudo_perplexity.measure(masked, pseudo_perplexity.Params()).scores["pseudo_perplexity"]
    assert found.value == pytest.approx(size, abs=1e-3)


def test_pseudo_perplexity_one_token_at_a_time(masked: Evidence) -> None:
    model, tokenizer = masked.pretrained("pretrain")
    nats = []
    for text in ("is a rose in spain", "it is", "a plain text"):
        ids = torch.tensor([[small.DOCUMENT, *small.encode(text)]])
        for place in range(1, ids.shape[1]):
            hidden = ids.clone()
            hidden[0, place] = tokenizer.mask_token_id
            nats.append(-float(model(hidden).logits[0, place].log_softmax(-1)[ids[0, place]].detach()))
    found = pseudo_perplexity.measure(masked, pseudo_perplexity.Params(batch_size=7)).scores["pseudo_perplexity"]
    assert found.value == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)


def test_an_encoder_decoder_that_knows_nothing(span: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    size = silence(span, monkeypatch)
    scores = denoising_loss.measure(span, denoising_loss.Params(max_length=12)).scores
    assert scores["denoising_loss"].value == pytest.approx(math.log(size), abs=1e-5)
    assert scores["denoising_loss"].n == 3


def test_riddles_beside_one_another_are_as_alone(span: Evidence) -> None:
    one, many = (
        denoising_loss.measure(span, denoising_loss.Params(max_length=12, batch_size=size)).scores for size in (1, 16)
    )
    assert one["denoising_loss"].value == pytest.approx(many["denoising_loss"].value, abs=1e-5)
    with pytest.raises(BadParams, match="3 spans in 64 tokens, but pretrain has 2 sentinels"):
        denoising_loss.measure(span, denoising_loss.Params(max_length=64))


def test_each_metric_is_for_its_kind(masked: Evidence, span: Evidence, tmp_path: Path) -> None:
    small.world(tmp_path)
    causal = Evidence(tmp_path, Sampling())
    measured = {
        kind: [bool(metric.measure(evidence, metric.Params(max_length=12)).scores) for metric in METRICS]
        for kind, evidence in (("causal", causal), ("masked", masked), ("span", span))
    }
    assert measured == {"causal": [False] * 3, "masked": [True, True, False], "span": [False, False, True]}
    finding = perplexity.measure(masked, perplexity.Params())
    assert "objective masked" in finding.notes[0]
    assert finding.scores == {}
    with pytest.raises(BadModel, match="needs the kind decoder"):
        masked.model("pretrain")


def test_documents_in_pieces() -> None:
    """19, 6 and 13 tokens in pieces of 5; a piece of one token is none."""
    stream = small.stream(["is a rose in spain", "it is", "a plain text"])
    found = restoring.pieces(stream, 5, 1000)
    assert [(piece.document, len(piece.ids)) for piece in found] == [
        (0, 5), (0, 5), (0, 5), (0, 4), (1, 5), (2, 5), (2, 5), (2, 3),
    ]  # fmt: skip
    assert [piece.document for piece in restoring.pieces(stream, 5, 10)] == [0, 2]
