"""Encoders and encoder-decoders: packed documents do not affect each other, and losses are those of transformers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from tasks import corruption, models, tokens
from tasks.causal.losses import IGNORED
from tasks.errors import BadModel
from tasks.files import sha256
from tasks.reports import Timings
from tasks.training.language import masked, spans
from tasks.training.language.rows import PackedBatch, PackedRows
from tasks.training.stages import pretrain, sft
from tests.training.models import small_model
from tests.training.tiny import fail_at

LENGTHS = [5, 17, 90, 1, 40]
SMALL = {"width": 32, "num_layers": 2, "num_heads": 2}
LOOP = {"learning_rate": 0.01, "warmup_steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "num_threads": 1,
        "precision": "fp32", "device": "cpu", "sequence_length": 32, "steps": 30}  # fmt: skip


def packed_ids() -> tuple[Tensor, Tensor]:
    ids = torch.randint(6, 300, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return ids, torch.cat([torch.arange(n) for n in LENGTHS]).expand(2, -1)


def packed_rows(lengths: list[int], global_batch: int = 2, micro_batch: int = 2, length: int = 20) -> PackedRows:
    generator = np.random.default_rng(0)
    ids = np.concatenate([[1, *generator.integers(6, 250, n - 1)] for n in lengths])
    positions = np.concatenate([np.arange(n) for n in lengths])
    stream = tokens.Stream(ids.astype(np.uint16), positions.astype(np.uint32), np.ones(len(ids), np.uint8))
    return PackedRows(stream, length, global_batch, micro_batch, seed=0, pad=0)


def span_work(rows: PackedRows, model: Any = None) -> spans.Spans:
    return spans.Spans(
        model,
        rows,
        None,
        None,
        span_corruption=corruption.SpanCorruption(),
        sentinels=np.arange(260, 290),
        end_id=5,
        seed=0,
    )


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_document_in_a_pack_is_as_it_is_alone_to_an_encoder(kind: str) -> None:
    model = small_model(kind, num_layers=3)
    if kind == "modernbert":
        assert {"full_attention", "sliding_attention"} == set(model.config.layer_types)
        for layer in model.model.layers:
            if layer.attention_type == "sliding_attention":
                layer.attn.sliding_window = 4 + 1
        model.config.local_attention = 8
    ids, positions = packed_ids()
    with torch.no_grad():
        together = masked.last_hidden(model, ids, positions)
        alone = torch.cat([model.base_model(part).last_hidden_state for part in ids.split(LENGTHS, 1)], 1)
    assert (together - alone).abs().max() < 1e-5


def test_a_roberta_checkpoint() -> None:
    """RoBERTa numbers positions from padding_idx + 1, and its head has another name."""
    config = RobertaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=64, max_position_embeddings=200, pad_token_id=1)  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    ids, positions = packed_ids()
    with torch.no_grad():
        together = masked.head(model)(masked.last_hidden(model, ids, positions))
        alone = torch.cat([model(part).logits for part in ids.split(LENGTHS, 1)], 1)
    assert (together - alone).abs().max() < 1e-5


def test_masked_loss_equals_that_of_transformers() -> None:
    model = small_model("bert")
    ids, positions = packed_ids()
    ids, positions = ids[:, 22:112], positions[:, 22:112]  # one document
    targets = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) > 0.2, IGNORED)
    work = masked.Masked(model, packed_rows([9]), None, None, masking=corruption.Masking(), mask_id=299,
                         vocab_size=300, seed=0)  # fmt: skip
    with torch.no_grad():
        loss, metrics = work.loss(PackedBatch(ids, positions, targets, float((targets != IGNORED).sum())))
        expected = model(input_ids=ids, labels=targets)
    torch.testing.assert_close(loss, expected.loss)
    has_target = targets != IGNORED
    is_right = expected.logits.argmax(-1)[has_target] == targets[has_target]
    assert metrics["masked_accuracy"] == is_right.float().mean()


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_the_head_is_that_of_the_class(kind: str) -> None:
    model = small_model(kind)
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        logits = masked.head(model)(masked.last_hidden(model, ids, torch.arange(3)[None]))
        torch.testing.assert_close(logits, model(ids).logits)


def test_a_row_with_corrupted_spans() -> None:
    """Documents of 12, 1 and 7 tokens: two examples, each with its own sentinels and its own end token."""
    batch = span_work(packed_rows([12, 1, 8])).batches(0)[0]
    assert batch.input_documents[0].unique().tolist() == [1, 3]
    for number, length in ((1, 12), (3, 7)):
        is_target = batch.target_documents[0] == number
        input_ids, targets = batch.input_ids[0][batch.input_documents[0] == number], batch.targets[0][is_target]
        num_tokens, num_spans = corruption.SpanCorruption().sizes(length)
        assert len(input_ids) == length - num_tokens + num_spans
        assert len(targets) == num_tokens + num_spans + 1
        assert (targets[0], targets[-1]) == (260, 5)
        assert batch.decoder_input_ids[0][is_target].tolist() == [0, *targets[:-1].tolist()]
    assert batch.weight == float((batch.targets != IGNORED).sum())


def test_the_loss_of_packed_examples_equals_that_of_each_alone() -> None:
    """The loss of a batch is the mean of the losses that transformers computes for each document."""
    model = small_model("t5")
    work = span_work(packed_rows([12, 1, 7, 20, 3, 30], length=20), model)
    batch = work.batches(1)[0]
    nats, num_targets = 0.0, 0
    with torch.no_grad():
        loss = float(work.loss(batch)[0])
        for row in range(len(batch.input_ids)):
            documents = batch.input_documents[row].unique()
            for document in documents[documents > 0]:
                input_ids = batch.input_ids[row][batch.input_documents[row] == document]
                labels = batch.targets[row][batch.target_documents[row] == document]
                nats += float(model(input_ids=input_ids[None], labels=labels[None]).loss) * len(labels)
                num_targets += len(labels)
    assert num_targets == batch.weight
    assert loss == pytest.approx(nats / num_targets, rel=1e-5)


def test_batches_are_a_function_of_the_step_alone() -> None:
    """The size of micro-batches does not change which tokens are masked or corrupted; the step does."""
    for make in (span_work, masked_work):
        one, two = (make(packed_rows([50] * 4, 4, micro)) for micro in (4, 1))
        batch, single_rows, next_step = one.batches(3)[0], two.batches(3), one.batches(4)[0]
        for row, single_row in enumerate(single_rows):
            targets = single_row.targets[single_row.targets != IGNORED]
            assert torch.equal(batch.targets[row][batch.targets[row] != IGNORED], targets)
        assert [single_row.rows for single_row in single_rows] == [(row,) for row in batch.rows]
        assert next_step.targets.shape != batch.targets.shape or not torch.equal(next_step.targets, batch.targets)


def masked_work(rows: PackedRows) -> masked.Masked:
    model: Any = None
    return masked.Masked(
        model, rows, rows, None, masking=corruption.Masking(), mask_id=299, vocab_size=299, seed=0
    )  # fmt: skip


def test_validation_masks_the_same_tokens_every_time_and_never_a_first_one() -> None:
    work = masked_work(packed_rows([50] * 4, 4, 4))
    for one, two in zip(work.validation_batches(), work.validation_batches(), strict=True):
        assert torch.equal(one.ids, two.ids)
        assert (one.targets[one.positions == 0] == IGNORED).all()


def run(data: Path, from_start: bool = True, **changes: Any) -> Any:
    if from_start:
        shutil.rmtree(data / "checkpoints", ignore_errors=True)
    params = pretrain.Params.model_validate({**LOOP, "model": SMALL, **changes})
    return pretrain.train(params, data, data / "checkpoints/pretrain", Timings("pretrain", data / "timings"))


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_an_encoder_learns_and_transformers_loads_it(ready: Path, kind: str) -> None:
    report = run(ready, objective="masked", model={"kind": kind, **SMALL}, steps=80)
    rows = report.tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert rows[-1]["validation_loss"] < rows[0]["loss"] - 1
    assert 0 <= rows[-1]["validation_masked_accuracy"] <= 1
    model = AutoModelForMaskedLM.from_pretrained(ready / "models/pretrain")
    tokenizer = AutoTokenizer.from_pretrained(ready / "models/pretrain")
    assert type(model).__name__.endswith("ForMaskedLM")
    assert tokenizer.mask_token == corruption.MASK
    assert model.config.vocab_size == len(tokenizer) == 301
    with pytest.raises(BadModel, match=r"kind encoder .objective masked.* needs the kind decoder"):
        sft.train(sft.Params(), ready, ready / "checkpoints/sft", Timings("sft", ready / "timings"))


def test_an_encoder_decoder_learns_and_transformers_loads_it(ready: Path) -> None:
    rows = run(ready, objective="span", steps=80).tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert rows[-1]["validation_loss"] < rows[0]["loss"] - 1
    model = AutoModelForSeq2SeqLM.from_pretrained(ready / "models/pretrain")
    tokenizer = AutoTokenizer.from_pretrained(ready / "models/pretrain")
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id
    inputs = tokenizer("the cat<extra_id_0> the mat", return_tensors="pt", return_token_type_ids=False)
    assert model.generate(**inputs, max_new_tokens=5, do_sample=False).shape[1] > 1
    with pytest.raises(BadModel, match="encoder-decoder"):
        models.load_causal(ready / "models/pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked", "span"])
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"gradient_checkpointing": True}, {"optimizer": "muon"}])
def test_precision_checkpointing_and_optimizers(ready: Path, objective: str, changes: dict[str, Any]) -> None:
    rows = run(ready, objective=objective, **changes).tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("objective", ["masked", "span"])
def test_a_repeated_run_gives_the_same_bytes_and_is_a_base_for_another(ready: Path, objective: str) -> None:
    hashes = []
    for _ in range(2):
        run(ready, objective=objective, steps=5)
        hashes.append(sha256(ready / "models/pretrain/model.safetensors"))
    assert hashes[0] == hashes[1]
    shutil.rmtree(ready / "base", ignore_errors=True)
    shutil.copytree(ready / "models/pretrain", ready / "base")
    rows = run(ready, objective=objective, steps=5, base=str(ready / "base")).tables["steps"]
    assert rows[0]["loss"] < 5.8
    with pytest.raises(BadModel, match="needs the kind decoder"):
        run(ready, base=str(ready / "base"))


@pytest.mark.parametrize(("objective", "work"), [("masked", masked.Masked), ("span", spans.Spans)])
def test_a_killed_run_continues_and_ends_in_the_same_bytes(ready: Path, objective: str, work: type[Any]) -> None:
    file = ready / "models/pretrain/model.safetensors"
    params: dict[str, Any] = {"objective": objective, "steps": 9, "checkpoint_every": 2}
    run(ready, **params)
    uninterrupted = sha256(file)
    shutil.rmtree(ready / "checkpoints")
    with fail_at(work, at_step=6):
        run(ready, **params)
    assert run(ready, from_start=False, **params).tables["steps"][-1]["step"] == 9
    assert sha256(file) == uninterrupted


def test_the_objective_and_the_kind_must_fit() -> None:
    assert pretrain.Params.model_validate({"objective": "span"}).model.kind == "t5"
    with pytest.raises(ValidationError, match=r"objective masked needs model\.kind bert or modernbert, not qwen3"):
        pretrain.Params.model_validate({"objective": "masked", "model": {"kind": "qwen3"}})
    with pytest.raises(ValidationError, match="objective causal needs"):
        pretrain.Params.model_validate({"model": {"kind": "t5"}})
    with pytest.raises(ValidationError, match="sequence_length 2048 is more than"):
        pretrain.Params.model_validate({"sequence_length": 2048, "model": {"kind": "gpt2"}})


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadModel, match="no folder models/none either: name a folder"):
        models.load_causal("models/none")
