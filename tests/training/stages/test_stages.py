"""pretrain and sft on a few sentences, from curated tables to models that plain transformers loads."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks import models
from tasks.errors import BadInput, BadModel
from tasks.files import MANIFEST, read_json, sha256
from tasks.reports import Timings
from tasks.tokens import read_stream
from tasks.training import adapters
from tasks.training.language.next_token import NextToken
from tasks.training.parallel import launch
from tasks.training.stages import pretrain, sft
from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize
from tests.training.tiny import fail_at

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own

SMALL = {"width": 32, "num_layers": 2, "num_heads": 2}
LOOP = {"learning_rate": 0.01, "warmup_steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "num_threads": 1,
        "precision": "fp32", "device": "cpu"}  # fmt: skip


@pytest.fixture(scope="module")
def ready(ready: Path) -> Path:
    """Tokens, and a pretrained model."""
    run_pretrain(ready)
    return ready


def run_pretrain(data: Path, **changes: Any) -> Any:
    params = pretrain.Params(**{**LOOP, "steps": 20, "model": SMALL, "sequence_length": 32, **changes})
    return pretrain.train(params, data, data / "checkpoints/pretrain", Timings("pretrain", data / "timings"))


def run_sft(data: Path, **changes: Any) -> Any:
    shutil.rmtree(data / "checkpoints/sft", ignore_errors=True)
    params = sft.Params(**{**LOOP, "steps": 20, **changes})
    return sft.train(params, data, data / "checkpoints/sft", Timings("sft", data / "timings"))


def test_pretraining_learns_and_saves_what_transformers_loads(ready: Path) -> None:
    rows = run_pretrain(ready, steps=60, evaluate_every=20).tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[-1]["validation_loss"] < rows[0]["loss"] / 2
    model = AutoModelForCausalLM.from_pretrained(ready / "models/pretrain")
    tokenizer = AutoTokenizer.from_pretrained(ready / "models/pretrain")
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer("the cat sat on").input_ids]])
    assert tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0, 1:]).startswith("the cat sat on")
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_the_same_again_is_the_same_bytes(ready: Path) -> None:
    digests = []
    for _ in range(2):
        shutil.rmtree(ready / "checkpoints/pretrain", ignore_errors=True)
        report = run_pretrain(ready)
        report.write(ready / "reports")
        written = [*(ready / "models/pretrain").iterdir(), ready / "reports/pretrain.json",
                   *(ready / "reports/pretrain").iterdir()]  # fmt: skip
        digests.append({path.name: sha256(path) for path in written})
    assert digests[0] == digests[1]


@pytest.mark.parametrize("adapter", [None, "lora", {"name": "lora", "rank": 2, "use_dora": True}])
def test_sft_learns_to_answer(ready: Path, adapter: Any) -> None:
    rows = run_sft(ready, adapter=adapter, learning_rate=0.03).tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"] / (1.2 if adapter else 2)
    origin = models.verify(ready / "models/sft")
    assert origin["stage"] == "sft"
    assert (ready / "models/sft" / models.ADAPTER).is_dir() == (adapter is not None)


def test_merged_and_adapter_say_the_same(ready: Path) -> None:
    from peft import PeftModel

    run_sft(ready, adapter="lora")
    folder, ids = ready / "models/sft", torch.tensor([[1, 40, 41, 42]])
    merged = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(ready / "models/pretrain")
    before = base(ids).logits
    with_adapter = PeftModel.from_pretrained(base, folder / models.ADAPTER).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, with_adapter(ids).logits, atol=1e-5, rtol=1e-4)
    assert (with_adapter(ids).logits - before).abs().max() > 1e-3


def test_an_adapter_trains_few_weights_and_leaves_the_base(ready: Path) -> None:
    model, _ = models.load_causal(ready / "models/pretrain")
    with_adapter = adapters.attach(model, sft.Params(adapter="lora").adapter, 0)
    assert adapters.num_trainable_parameters(with_adapter) < 0.5 * model.num_parameters()


def test_a_base_with_another_tokenizer_is_refused(ready: Path, tmp_path: Path) -> None:
    write_curated(tmp_path)
    tokenize(tmp_path, vocab_size=290)
    shutil.copytree(tmp_path / "tokens", tmp_path / "kept/tokens")
    with pytest.raises(BadModel, match=r"does not fit .*tokenization\.tokenizer"):
        run_sft(tmp_path / "kept", base=str(ready / "models/pretrain"))


def test_a_base_whose_tokenizer_was_extended_is_resized(ready: Path) -> None:
    model, own = models.load_causal(ready / "models/pretrain")
    longer = models.load_tokenizer(ready / "models/pretrain")
    longer.add_tokens(["<new>", "<newer>"])
    models.fit_vocabulary(model, own, longer, "base")
    assert model.get_input_embeddings().weight.shape[0] == len(longer) == 302


def test_damaged_and_missing_models_are_named(ready: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no model"):
        models.load_causal(tmp_path / "none")
    folder = tmp_path / "damaged"
    shutil.copytree(ready / "models/pretrain", folder)
    body = bytearray((folder / "model.safetensors").read_bytes())
    body[-1] ^= 1
    (folder / "model.safetensors").write_bytes(body)
    with pytest.raises(BadModel, match=r"model\.safetensors is damaged"):
        models.load_causal(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(BadModel, match="not a complete model"):
        models.load_causal(folder)


def test_tokens_that_are_missing(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    shutil.copytree(ready / "tokens/tokenizer", tmp_path / "tokens/tokenizer")
    with pytest.raises(BadInput, match="Run tokenization again"):
        run_pretrain(tmp_path)
    with pytest.raises(BadModel, match="no model"):
        run_sft(tmp_path)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"precision": "bf16"}, {"optimizer": "muon"}])
def test_ways_of_training(ready: Path, changes: dict[str, Any]) -> None:
    shutil.rmtree(ready / "checkpoints/pretrain", ignore_errors=True)
    rows = run_pretrain(ready, **changes).tables["steps"]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert models.load_causal(ready / "models/pretrain")[0].dtype == torch.float32


def test_a_second_stage_of_a_kind_starts_from_another_stage_under_its_own_name(ready: Path) -> None:
    """`mid: {stage: sft, base: sft, data: ...}`: model and report have the name mid; sft stays as it is."""
    run_sft(ready)
    before = sha256(ready / "models/sft/model.safetensors")
    params = sft.Params(**{**LOOP, "steps": 2, "base": "sft", "data": str(ready / "tokens")})
    report = launch.train("mid", params, ready, ready / "checkpoints/mid", Timings("mid", ready / "timings"))
    origin = models.verify(ready / "models/mid")
    assert (report.stage, origin["stage"], origin["kind"]) == ("mid", "mid", "sft")
    assert origin["base"] == "data/models/sft"
    assert sha256(ready / "models/sft/model.safetensors") == before


def test_sft_with_replay_resumes_exactly_and_reports_what_it_read(ready: Path) -> None:
    """20 steps of 4 rows: 16 of 80 rows are samples of the base. A run that fails at step 12 continues from step 10."""
    settings = {"replay": {"share": 0.2}, "checkpoint_every": 5, "evaluate_first": True, "may_end_worse": True}
    report = run_sft(ready, **settings)
    assert report.counts["replayed_rows"] == 16
    assert report.scores["epochs"] == round(64 / sft_rows(ready), 3)
    assert "16 of 80 rows were samples of the base" in " ".join(report.notes)
    steps = report.tables["steps"]
    assert all(row["validation_replay_loss"] > 0 for row in (steps[0], steps[-1]))
    whole = sha256(ready / "models/sft/model.safetensors")
    with fail_at(NextToken, at_step=12):
        run_sft(ready, **settings)
    params = sft.Params(**{**LOOP, "steps": 20, **settings})
    resumed = sft.train(params, ready, ready / "checkpoints/sft", Timings("sft", ready / "timings"))
    assert sha256(ready / "models/sft/model.safetensors") == whole
    assert resumed.tables["steps"] == steps


def sft_rows(data: Path) -> int:
    """The number of rows of conversations for training."""
    return read_stream(data / "tokens/conversations/train").num_rows(sequence_length(data))


def sequence_length(data: Path) -> int:
    return int(read_json(data / "tokens" / MANIFEST)["sequence_length"])


def test_pretraining_with_fill_in_the_middle_and_with_replay(ready: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_curated(data)
    tokenizer = tokenize(data, vocab_size=300, fill_in_middle=True)
    assert len(tokenizer) == 300
    params = {"fill_in_middle": 0.5, "steps": 4, "model": SMALL, "sequence_length": 32, **LOOP}
    report = pretrain.train(
        pretrain.Params.model_validate(params), data, data / "checkpoints", Timings("pretrain", data / "timings")
    )
    assert "have their middle last" in report.notes[-1]
    base = str(ready / "models/pretrain")
    replayed = run_pretrain(ready, base=base, steps=4, replay={"share": 0.25}, warmup_steps=1)
    assert replayed.counts["replayed_rows"] == 4


def test_fill_in_the_middle_needs_its_tokens(ready: Path) -> None:
    with pytest.raises(BadModel, match=r"tokenization\.fill_in_middle: true for a new tokenizer"):
        run_pretrain(ready, fill_in_middle=0.5, steps=4)
