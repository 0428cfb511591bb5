"""Model folders: precision, modes of files, missing weights, damage, and code that is never executed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tasks import models
from tasks.errors import BadModel
from tasks.training.loop.stage_files import saved_dtype
from tests.sources import ROOT
from tests.training import tiny


def plain_folder(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint as transformers writes it, without the files of this project."""
    tiny.model().to(dtype).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_of_a_base_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    base = plain_folder(tmp_path / "base", dtype)
    model, own = models.load_causal(str(base))
    assert model.dtype == torch.float32, "training needs fp32"
    models.save(tmp_path / "saved", model, own, {"stage": "sft"}, saved_dtype("base", str(base)))
    stored = load_file(tmp_path / "saved/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == dtype
    assert sorted(stored) == sorted(load_file(base / "model.safetensors")), "tied weights are stored once"


def test_another_precision_can_be_chosen(tmp_path: Path) -> None:
    assert saved_dtype("float32", plain_folder(tmp_path / "base", torch.bfloat16)) == torch.float32
    assert saved_dtype("base", None) is None
    assert saved_dtype("base", plain_folder(tmp_path / "fp32")) is None


def test_other_users_can_read_all_files(tmp_path: Path) -> None:
    models.save(tmp_path / "m", tiny.model(), tiny.tokenizer(), {"stage": "sft"})
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "m").iterdir()} == {"0o644"}


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """A causal model has no score: as a reward model, it would have a random one."""
    folder = str(plain_folder(tmp_path / "base"))
    with pytest.raises(BadModel, match=r"score\.weight is missing in the folder, so that they would be random numbers"):
        models.load_reward(folder)
    weights = load_file(f"{folder}/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
    with pytest.raises(BadModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        models.load_causal(folder)


def test_unknown_weights_are_named(tmp_path: Path) -> None:
    folder = plain_folder(tmp_path / "base")
    weights = load_file(folder / "model.safetensors") | {"model.layers.7.gate.weight": torch.zeros(2, 2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadModel, match=r"model\.layers\.7\.gate\.weight is unknown to the model"):
        models.load_causal(str(folder))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "binary"])
def test_a_damaged_file_is_one_message(file: str, damage: str, tmp_path: Path) -> None:
    folder = plain_folder(tmp_path / "base")
    path = folder / file
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "binary": b"\xff\xfe\x00" * 20}[damage])
    with pytest.raises(BadModel, match="base cannot be loaded as a model or tokenizer") as error:
        models.load_causal(str(folder))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 5


@pytest.mark.parametrize("file", ["manifest.json", "athanor.json"])
def test_a_damaged_manifest_is_one_message(file: str, tmp_path: Path) -> None:
    models.save(tmp_path / "m", tiny.model(), tiny.tokenizer(), {"stage": "sft"})
    (tmp_path / "m" / file).write_text('{"a": ')
    with pytest.raises(BadModel, match="m cannot be loaded"):
        models.load_causal(tmp_path / "m")


def test_code_of_a_folder_is_not_executed_and_standard_input_is_not_read(tmp_path: Path) -> None:
    """With `printf 'y'` as its input, transformers would ask, read the y, and execute the code."""
    folder = plain_folder(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    program = f"from tasks import models; models.load_causal({str(folder)!r})"
    result = subprocess.run(
        [sys.executable, "-c", program], input="y\n" * 9, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "BadModel" in result.stderr
    assert not (tmp_path / "executed").exists()


def test_a_folder_with_another_model_than_the_trained_one_gets_no_manifest(tmp_path: Path) -> None:
    """The scale of the attention was changed in memory; neither weights nor config say so."""
    model: Any = tiny.model(std=0.5)
    for layer in model.model.layers:
        layer.self_attn.scaling *= 3
    with pytest.raises(BadModel, match="is another model after it was saved"):
        models.save(tmp_path / "m", model, tiny.tokenizer(), {"stage": "sft"})
    assert not (tmp_path / "m" / "manifest.json").exists()
