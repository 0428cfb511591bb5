"""A model folder of transformers in a stated precision, with tokenizer, chat template and end tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.causal import saving
from tasks.errors import BadModel
from tasks.models import load_causal, state_end_tokens

if TYPE_CHECKING:
    import torch

MAX_FP16 = 65504.0


def write(folder: Path, model: Any, tokenizer: Any, dtype: "torch.dtype") -> int:
    """Write `model` in `dtype` and its `tokenizer` into `folder`; return the number of tensors.

    Raises BadModel if a weight is beyond the range of fp16, because it would become infinite.
    """
    import torch

    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    if dtype == torch.float16 and largest > MAX_FP16:
        raise BadModel(f"a weight of {largest:.3g} is beyond the range of fp16; export to safetensors-bf16 instead.")
    folder.mkdir(parents=True, exist_ok=True)
    state_end_tokens(model, tokenizer)
    saving.write_weights(model, folder, dtype)
    tokenizer.save_pretrained(folder)
    saving.make_readable(folder)
    return len(model.state_dict())


def largest_difference(folder: Path, model: Any) -> float:
    """Load the folder with transformers and return the largest |weight of the folder - weight of `model`|.

    Raises BadModel if the folder has other tensors than the model.
    """
    loaded, weights = load_causal(folder)[0].state_dict(), model.state_dict()
    if loaded.keys() != weights.keys():
        different = sorted(loaded.keys() ^ weights.keys())
        raise BadModel(f"{folder} has other tensors than the model: {', '.join(different[:5])}. Export it again.")
    return max(float((loaded[name].float() - weight.float()).abs().max()) for name, weight in weights.items())
