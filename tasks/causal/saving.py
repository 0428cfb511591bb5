"""Save a model in the precision of its base, and check that plain transformers loads the same model from the folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import peft
from tasks.causal.loading import attention_setting, load_model, without_progress_bars
from tasks.errors import BadModel
from tasks.files import read_json, write_json

if TYPE_CHECKING:
    import torch

NUM_TOKENS = 24
# The largest difference of the logits, relative to the largest logit if that is above 1.
TOLERANCE, HALF_TOLERANCE, QUANTIZED_TOLERANCE = 1e-3, 0.1, 0.3


def write_weights(model: Any, folder: Path, dtype: "torch.dtype | None") -> None:
    """Write weights and config; the weights in `dtype`, or as they are. A head that is kept in fp32 stays so."""
    import torch

    if dtype is None or dtype == torch.float32:
        with without_progress_bars():
            model.save_pretrained(folder)
        return
    names_of_modules = [name for name, module in model.named_modules() if getattr(module, "keep_fp32", False)]
    cast: dict[Any, Any] = {}  # tied weights stay one tensor
    state = {}
    for name, tensor in model.state_dict().items():
        key = tensor.data_ptr(), tensor.shape, tensor.stride()
        keeps = not tensor.is_floating_point() or any(name.startswith(f"{one}.") for one in names_of_modules)
        state[name] = tensor if keeps else cast.setdefault(key, tensor.to(dtype))
    with without_progress_bars():
        model.save_pretrained(folder, state_dict=state)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})


def make_readable(folder: Path) -> None:
    """Let other users read the folder: safetensors writes files that only their owner can read."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def verify(folder: Path, model: Any, kind: Any, special_ids: list[int], dtype: "torch.dtype | None") -> None:
    """Compare `model` with what plain transformers loads from `folder` by the class `kind`. Raises BadModel.

    The weights of the second model stay in the files, which the system maps into memory and may drop from it.
    `model` may have an adapter, which the folder contains in merged form; a soft prompt is not part of the folder.
    """
    import torch

    from tasks.causal.self_check import random_ids

    base = peft.base_model(model)
    model = base if peft.num_virtual_tokens(model) else model
    parameter = next(model.parameters())
    is_quantized = any(type(p).__name__ in peft.QUANTIZED_WEIGHTS for p in model.parameters())
    is_half = dtype not in (None, torch.float32) or parameter.dtype != torch.float32
    most = QUANTIZED_TOLERANCE if is_quantized else HALF_TOLERANCE if is_half else TOLERANCE
    # In the precision of its files, the second model is read from them without a copy in memory.
    dtypes = [torch.float32] if dtype in (None, torch.float32) else [dtype, torch.float32]
    ids = random_ids(base, special_ids, NUM_TOKENS)[None].to(parameter.device)
    for precision in dtypes:
        error, different = _error(folder, model, kind, ids, precision)
        if error <= most:
            return
    raise BadModel(
        f"{type(base).__name__} is another model after it was saved to {folder} and loaded by plain transformers: "
        f"its numbers differ by {error:.2g} (allowed: {most:g}).{different} The folder is left without its "
        "manifest, so that no stage uses it."
    )


def _error(folder: Path, model: Any, kind: Any, ids: "torch.Tensor", dtype: Any) -> tuple[float, str]:
    """The difference of the logits of `model` and of the folder in `dtype`, and a sentence about different weights.

    The difference is infinite if the class cannot compute in this precision.
    """
    import torch

    from tasks.answers import evaluating
    from tasks.causal import attention

    base = peft.base_model(model)
    settings: dict[str, Any] = {"dtype": dtype, **attention_setting(kind, base.config)}
    loaded = load_model(kind, folder, **settings).to(ids.device)
    with torch.no_grad(), evaluating(model):
        try:
            actual = loaded(input_ids=ids).logits.float()
        except (RuntimeError, TypeError, ValueError):
            if dtype == torch.float32:
                raise
            return float("inf"), ""
        previous = base.config._attn_implementation
        attention.set_implementation(base, loaded.config._attn_implementation)
        expected = model(input_ids=ids).logits.float()
        attention.set_implementation(base, previous)
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1))
    return difference, _different_weights(loaded, base)


def _different_weights(loaded: Any, base: Any) -> str:
    own = dict(base.named_parameters())
    names = [
        name
        for name, tensor in loaded.named_parameters()
        if name in own and own[name].shape == tensor.shape and not own[name].float().allclose(tensor.float(), atol=1e-2)
    ]
    return f" Weights that differ: {', '.join(names[:5])}." if names else ""
