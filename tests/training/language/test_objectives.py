"""Encoders and encoder-decoders: packed documents stay apart, batches follow from the step, losses are right."""

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
from tasks.errors import BadModel
from tasks.files import sha256
from tasks.reports import Timings
from tasks.training.language import masked, spans
from tasks.training.language.losses import IGNORED
from tasks.training.language.rows import Batch, Rows
from tasks.training.stages import pretrain, sft
from tests.training.models import small_model
from tests.training.tiny import dying

LENGTHS = [5, 17, 90, 1, 40]
SMALL = {"width": 32, "num_layers": 2, "num_heads": 2}
LOOP = {"learning_rate": 0.01, "warmup_steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "num_threads": 1,
        "precision": "fp32", "device": "cpu", "sequence_length": 32, "steps": 30}  # fmt: skip


def packed_ids() -> tuple[Tensor, Tensor]:
    ids = torch.randint(6, 300, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return ids, torch.cat([torch.arange(n) for n in LENGTHS]).expand(2, -1)


def packed_rows(lengths: list[int], global_batch: int = 2, micro_batch: int = 2, length: int = 20) -> Rows:
    generator = np.random.default_rng(0)
    ids = np.concatenate([[1, *generator.integers(6, 250, n - 1)] for n in lengths])
    positions = np.concatenate([np.arange(n) for n in lengths])
    stream = tokens.Stream(ids.astype(np.uint16), positions.astype(np.uint32), np.ones(len(ids), np.uint8))
    return Rows(stream, length, global_batch, micro_batch, seed=0, pad=0)


def riddles(rows: Rows, model: Any = None) -> spans.Spans:
    return spans.Spans(
        model, rows, None, None, cutting=corruption.Cutting(), sentinels=np.arange(260, 290), end_id=5, seed=0
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


def test_a_checkpoint_of_roberta_s_kind() -> None:
    """It counts positions from behind its padding, and has a head of its own."""
    config = RobertaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=64, max_position_embeddings=200, pad_token_id=1)  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    ids, positions = packed_ids()
    with torch.no_grad():
        together = masked.head(model)(masked.last_hidden(model, ids, positions))
        alone = torch.cat([model(part).logits for part in ids.split(LENGTHS, 1)], 1)
    assert (together - alone).abs().max() < 1e-5


def test_its_loss_is_that_of_transformers() -> None:
    model = small_model("bert")
    ids, positions = packed_ids()
    ids, positions = ids[:, 22:112], positions[:, 22:112]  # one document
    targets = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) > 0.2, IGNORED)
    work = masked.Masked(model, packed_rows([9]), None, None, masking=corruption.Masking(), mask_id=299,
                         vocab_size=300, seed=0)  # fmt: skip
    with torch.no_grad():
        ours, numbers = work.loss(Batch(ids, positions, targets, float((targets != IGNORED).sum())))
        theirs = model(input_ids=ids, labels=targets)
    torch.testing.assert_close(ours, theirs.loss)
    asked = targets != IGNORED
    assert numbers["masked_accuracy"] == (theirs.logits.argmax(-1)[asked] == targets[asked]).float().mean()


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_the_head_is_that_of_the_class(kind: str) -> None:
    model = small_model(kind)
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        ours = masked.head(model)(masked.last_hidden(model, ids, torch.arange(3)[None]))
        torch.testing.assert_close(ours, model(ids).logits)


def test_a_row_as_riddles() -> None:
    """Documents of 12, 1 and 7 tokens: two riddles, each with its own sentinels and its own end."""
    row = riddles(packed_rows([12, 1, 8])).batches(0)[0]
    assert row.documents[0].unique().tolist() == [1, 3]
    for number, length in ((1, 12), (3, 7)):
        seen, asked = row.ids[0][row.documents[0] == number], row.targets[0][row.answer_documents[0] == number]
        cut, spans_of_it = corruption.Cutting().sizes(length)
        assert len(seen) == length - cut + spans_of_it
        assert len(asked) == cut + spans_of_it + 1
        assert (asked[0], asked[-1]) == (260, 5)
        given = row.answer_ids[0][row.answer_documents[0] == number]
        assert given.tolist() == [0, *asked[:-1].tolist()]
    assert row.weight == float((row.targets != IGNORED).sum())


def test_riddles_in_a_pack_are_as_they_are_alone() -> None:
    """The loss of a batch of packed riddles is what transformers gives each of them alone."""
    model = small_model("t5")
    work = riddles(packed_rows([12, 1, 7, 20, 3, 30], length=20), model)
    batch = work.batches(1)[0]
    nats, number = 0.0, 0
    with torch.no_grad():
        ours = float(work.loss(batch)[0])
        for row in range(len(batch.ids)):
            for document in batch.documents[row].unique()[batch.documents[row].unique() > 0]:
                seen = batch.ids[row][batch.documents[row] == document]
                labels = batch.targets[row][batch.answer_documents[row] == document]
                nats += float(model(input_ids=seen[None], labels=labels[None]).loss) * len(labels)
                number += len(labels)
    assert number == batch.weight
    assert ours == pytest.approx(nats / number, abs=1e-5)


def test_batches_are_a_function_of_the_step_alone() -> None:
    """Whatever the micro-batches: the same tokens are hidden and cut out; another step hides others."""
    for make in (riddles, hidden):
        one, two = (make(packed_rows([50] * 4, 4, micro)) for micro in (4, 1))
        whole, again, next_step = one.batches(3)[0], two.batches(3), one.batches(4)[0]
        for row, part in enumerate(again):
            asked = part.targets[part.targets != IGNORED]
            assert torch.equal(whole.targets[row][whole.targets[row] != IGNORED], asked)
        assert [batch.rows for batch in again] == [(row,) for row in whole.rows]
        assert next_step.targets.shape != whole.targets.shape or not torch.equal(next_step.targets, whole.targets)


def hidden(rows: Rows) -> masked.Masked:
    return masked.Masked(
        None,
        rows,
        rows,
        None,
        masking=corruption.Masking(),
        mask_id=299,
        vocab_size=299,
        seed=0,  # type: ignore[arg-type]
    )


def test_validation_hides_the_same_every_time_and_never_a_first_token() -> None:
    work = hidden(packed_rows([50] * 4, 4, 4))
    one, two = list(work.held_out()), list(work.held_out())
    for left, right in zip(one, two, strict=True):
        assert torch.equal(left.ids, right.ids)
        assert (left.targets[left.positions == 0] == IGNORED).all()


def run(data: Path, afresh: bool = True, **changes: Any) -> Any:
    if afresh:
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
    asked = tokenizer("the cat<extra_id_0> the mat", return_tensors="pt", return_token_type_ids=False)
    assert model.generate(**asked, max_new_tokens=5, do_sample=False).shape[1] > 1
    with pytest.raises(BadModel, match="encoder-decoder"):
        models.load_causal(ready / "models/pretrain")


@pytest.mark.parametrize("objective", ["masked", "span"])
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"gradient_checkpointing": True}, {"optimizer": "muon"}])
def test_ways_of_training(ready: Path, objective: str, changes: dict[str, Any]) -> None:
    rows = run(ready, objective=objective, **changes).tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("objective", ["masked", "span"])
def test_the_same_again_is_the_same_bytes_and_it_can_go_on_from_there(ready: Path, objective: str) -> None:
    digests = []
    for _ in range(2):
        run(ready, objective=objective, steps=5)
        digests.append(sha256(ready / "models/pretrain/model.safetensors"))
    assert digests[0] == digests[1]
    shutil.rmtree(ready / "base", ignore_errors=True)
    shutil.copytree(ready / "models/pretrain", ready / "base")
    rows = run(ready, objective=objective, steps=5, base=str(ready / "base")).tables["steps"]
    assert rows[0]["loss"] < 5.8
    with pytest.raises(BadModel, match="needs the kind decoder"):
        run(ready, base=str(ready / "base"))


@pytest.mark.parametrize(("objective", "work"), [("masked", masked.Masked), ("span", spans.Spans)])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(ready: Path, objective: str, work: type[Any]) -> None:
    file, dials = (
        ready / "models/pretrain/model.safetensors",
        {"objective": objective, "steps": 9, "checkpoint_every": 2},
    )
    run(ready, **dials)
    whole = sha256(file)
    shutil.rmtree(ready / "checkpoints")
    with dying(work, at_step=6):
        run(ready, **dials)
    assert run(ready, afresh=False, **dials).tables["steps"][-1]["step"] == 9
    assert sha256(file) == whole


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
    with pytest.raises(BadModel, match="no folder models/none either: name one"):
        models.load_causal("models/none")
