"""Export a model to a format of another program, and verify the files by reading them back.

No step of it is a Prefect task, because it has no stage: `python -m flows.export` calls it directly.
"""

from pathlib import Path
from typing import Any, Literal

from tasks import peft
from tasks.chat_templates import ChatTemplate
from tasks.errors import BadModel
from tasks.export import architectures, gguf_file, model_folder, modelfile, vocabulary
from tasks.files import read_json, sha256, write_json
from tasks.models import base_dtype, load_causal, load_config

Format = Literal[
    "gguf", "gguf-fp32", "gguf-fp16", "gguf-bf16", "gguf-q8_0",
    "safetensors-fp32", "safetensors-fp16", "safetensors-bf16",
]  # fmt: skip
REPORT, MODELFILE = "export.json", "Modelfile"
_PRECISIONS: dict[str, gguf_file.Precision] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
# The largest rounding error of a format, relative to the largest weight: half a unit of its last place; for q8_0 half
# of the 127th part of the largest weight of a block, and the rounding of that scale to fp16.
_ROUNDING = {"fp32": 0.0, "fp16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 1 / 254 + 2.0**-11}


def export(name: str, to: Format, folder: Path, pre_tokenizer: str | None = None) -> dict[str, Any]:
    """Write the model `name` in the format `to` into `folder`; return what was written (also in export.json).

    name: a model folder, a folder with a PEFT adapter, which is merged into its base first, or a hub name. gguf: the
    precision of the model itself. pre_tokenizer: a name of `vocabulary.PRE_TOKENIZERS`; None chooses one. Raises
    BadModel for a model that the format cannot hold, and if a file that was read back is not the model.
    """
    model, tokenizer, merged = load(name)
    container, _, precision = to.partition("-")
    precision = precision or _precision_of(name, merged)
    folder.mkdir(parents=True, exist_ok=True)
    if container == "gguf":
        facts = _export_gguf(folder, name, model, tokenizer, precision, pre_tokenizer)
    else:
        facts = _export_safetensors(folder, model, tokenizer, precision)
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    if not facts["largest_difference"] <= _ROUNDING[precision] * largest:
        raise BadModel(
            f"{folder} was read back and is another model: a weight differs by {facts['largest_difference']:.3g}, but "
            f"rounding to {precision} explains at most {_ROUNDING[precision] * largest:.3g}. Do not use it."
        )
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != REPORT)
    report = {"model": name, "format": to, "precision": precision, "merged_adapter": merged, **facts}
    report |= {"largest_weight": largest, "files": {path.name: sha256(path) for path in files}}
    write_json(folder / REPORT, report)
    return report


def load(name: str) -> tuple[Any, Any, bool]:
    """Load a causal model with its adapter merged, its tokenizer, and whether there was an adapter to merge.

    Raises BadModel for reward models, encoders, soft prompts and adapters without their base.
    """
    if (Path(name) / "adapter_config.json").is_file():
        from peft import PeftModel

        base = read_json(Path(name) / "adapter_config.json").get("base_model_name_or_path")
        if not base:
            raise BadModel(f"{name}/adapter_config.json names no base model; set base_model_name_or_path there.")
        model, tokenizer = load_causal(base)
        with peft.without_peft_warnings():
            model = PeftModel.from_pretrained(model, name)
        _refuse_soft_prompt(model, name)
        return peft.merge_adapter(model), tokenizer, True
    kinds = load_config(name).architectures or []
    if any("SequenceClassification" in kind or "Reward" in kind for kind in kinds):
        raise BadModel(f"{name} is a reward model ({kinds[0]}), which writes no text. Export sft, ppo or dpo.")
    model, tokenizer = load_causal(name)
    _refuse_soft_prompt(model, name)
    return model, tokenizer, False


def _refuse_soft_prompt(model: Any, name: str) -> None:
    if peft.num_virtual_tokens(model):
        raise BadModel(
            f"{name} has a soft prompt, which is no weight of the model and cannot be merged into it. Train with "
            "another adapter, such as lora, or serve the folder itself."
        )


def _precision_of(name: str, merged: bool) -> str:
    dtype = None if merged else base_dtype(name)
    return {"torch.float16": "fp16", "torch.bfloat16": "bf16"}.get(str(dtype), "fp32")


def _export_gguf(
    folder: Path, name: str, model: Any, tokenizer: Any, precision: str, pre_tokenizer: str | None
) -> dict[str, Any]:
    architectures.check(model.config)
    words = vocabulary.read(tokenizer, model, model.get_input_embeddings().weight.shape[0], pre_tokenizer)
    path = folder / f"{Path(name).name}.gguf"
    count = gguf_file.write(path, model, words, Path(name).name, _PRECISIONS[precision])
    renderer = ChatTemplate.of(tokenizer).renderer

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    control_tokens = [*tokenizer.get_added_vocab()]
    chat = modelfile.layout(render, control_tokens) if renderer.source else None
    length = int(architectures.metadata(model.config)["context_length"])
    (folder / MODELFILE).write_text(modelfile.write(path.name, chat, words.end_tokens, length), encoding="utf-8")
    return {
        "tensors": count,
        "largest_difference": gguf_file.largest_difference(path, model),
        "pre_tokenizer": words.pre_tokenizer,
        "probes": len(vocabulary.PROBES),
        "different_probes": words.different_probes,
        "end_tokens": list(words.end_tokens),
        "has_chat_template": bool(words.chat_template),
        "has_ollama_template": chat is not None,
    }


def _export_safetensors(folder: Path, model: Any, tokenizer: Any, precision: str) -> dict[str, Any]:
    import torch

    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    count = model_folder.write(folder, model, tokenizer, dtypes[precision])
    return {"tensors": count, "largest_difference": model_folder.largest_difference(folder, model)}
