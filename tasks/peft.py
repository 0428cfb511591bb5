"""PEFT: a base model under an adapter. Merge an adapter, quantize and dequantize a base, attach saved soft prompts.

`model` is a model of transformers or a PeftModel; a "base model" is what an adapter was attached to.
"""

import copy
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import BadParams

if TYPE_CHECKING:
    from torch import Tensor, nn

Bits = Literal[4, 8]
QUANTIZED_WEIGHTS = ("Int8Params", "Params4bit")  # the classes of bitsandbytes; compared by name, to import it late


def has_adapter(model: Any) -> bool:
    """Whether `model` is a PeftModel."""
    return hasattr(model, "get_base_model")


def base_model(model: Any) -> Any:
    """The model of transformers inside a PeftModel (with the adapter's layers in it); a plain model itself."""
    return model.get_base_model() if has_adapter(model) else model


def num_virtual_tokens(model: Any) -> int:
    """The number of tokens of a soft prompt in front of the text; 0 for adapters without one and plain models."""
    config = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def without_adapter_files(model: Any) -> Any:
    """What a plain model folder holds of a PeftModel: the merged model, or the base model of a soft prompt.

    A soft prompt is no weight of the model, so it cannot be merged. The base is returned in fp32 if it is quantized.
    """
    if not model.active_peft_config.is_prompt_learning:
        return merge_adapter(model)
    base = model.get_base_model()
    return _dequantize(copy.deepcopy(base)) if _is_quantized(base) else base


def merge_adapter(model: Any) -> Any:
    """A plain model with the weights of the adapter added to its own. `model` itself does not change.

    A base in 8 or 4 bits is dequantized to fp32 first: the sum of a quantized weight and an update would have to be
    rounded to 8 or 4 bits again, and small updates would be lost.
    """
    if not _is_quantized(model):
        return copy.deepcopy(model).merge_and_unload()
    import peft

    config, adapter_weights = copy.deepcopy(model.active_peft_config), peft.get_peft_model_state_dict(model)
    model = copy.deepcopy(model)
    _clear_quantization_flags(model.get_base_model())  # with them, peft refuses to unload the adapter
    base = _dequantize(model.unload())
    # The maps of a quantized GPT-2 were nn.Linear; now they are Conv1D again, which LoRA has to know.
    config.fan_in_fan_out = any(type(module).__name__ == "Conv1D" for module in base.modules())
    with without_peft_warnings():
        with_adapter = peft.get_peft_model(base, config)
    peft.set_peft_model_state_dict(with_adapter, adapter_weights)
    return with_adapter.merge_and_unload()


def attach_soft_prompt(model: Any, adapter: Path) -> Any:
    """`model` behind the soft prompt of the folder `adapter`; `model` itself if there is none.

    Other adapters are merged already when a model folder is written (see `without_adapter_files`).
    """
    if not adapter.is_dir():
        return model
    from peft import PeftConfig, PeftModel

    with without_peft_warnings():
        if not PeftConfig.from_pretrained(str(adapter)).is_prompt_learning:
            return model
        return PeftModel.from_pretrained(model, str(adapter)).eval()


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Hide the warning about an attribute of transformers that peft itself still reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def quantize(model: Any, bits: Bits) -> None:
    """Quantize the linear maps in the blocks of `model` in place by bitsandbytes, and freeze all its weights.

    8 bits: LLM.int8 (arXiv:2208.07339), which quantizes activations too. 4 bits: NF4 of QLoRA (arXiv:2305.14314). The
    memory of these weights becomes a quarter or an eighth of fp32. Embeddings, norms and the head keep their precision.
    Raises BadParams if bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadParams(
            "adapter.base_bits needs the package bitsandbytes, which is not installed. "
            "Run `pip install bitsandbytes`, or remove base_bits from the params of the adapter."
        )
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")  # bitsandbytes prints it each time
    for name, module in list(model.base_model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D):
            is_conv1d = isinstance(module, Conv1D)  # GPT-2's linear map: its weight is [in, out], not [out, in]
            weight = module.weight.detach().T.contiguous() if is_conv1d else module.weight.detach()
            quantized: Any = _quantized_linear(weight, module.bias, bits)
            quantized.was_conv1d = is_conv1d  # `_dequantize` restores the same class
            model.base_model.set_submodule(name, quantized)
    setattr(model, f"is_loaded_in_{bits}bit", True)  # peft decides by this attribute which adapter layers it creates
    model.requires_grad_(False)


def _quantized_linear(weight: "Tensor", bias: "Tensor | None", bits: Bits) -> "nn.Module":
    """A linear map of bitsandbytes with `weight` [out, in]."""
    import bitsandbytes as bnb
    import torch

    arguments = weight.shape[1], weight.shape[0], bias is not None
    linear: Any = (
        bnb.nn.Linear8bitLt(*arguments, has_fp16_weights=False)
        if bits == 8
        else bnb.nn.Linear4bit(*arguments, compute_dtype=torch.float32, quant_type="nf4")
    )
    # On a CPU with AVX512-BF16, bitsandbytes would repack the weights in eval mode: its results then differ slightly,
    # and it fails for some widths.
    linear.support_avx512bf16_for_cpu = False
    linear.load_state_dict({"weight": weight} | ({"bias": bias.detach()} if bias is not None else {}))
    return linear.to(weight.device)  # type: ignore[no-any-return]  # bitsandbytes quantizes in this call of `to`


def _is_quantized(model: Any) -> bool:
    return any(type(parameter).__name__ in QUANTIZED_WEIGHTS for parameter in model.parameters())


def _dequantize(model: Any) -> Any:
    """Replace the linear maps of bitsandbytes in `model` by plain ones in fp32, in place."""
    from peft.utils.integrations import dequantize_module_weight
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if type(getattr(module, "weight", None)).__name__ not in QUANTIZED_WEIGHTS:
            continue
        weight, bias = dequantize_module_weight(module).float(), module.bias
        linear: Any = Conv1D(*weight.shape) if module.was_conv1d else nn.Linear(weight.shape[1], weight.shape[0], False)
        linear.weight.data, linear.bias = weight.T.contiguous() if module.was_conv1d else weight, bias
        model.set_submodule(name, linear)
    _clear_quantization_flags(model)
    return model


def _clear_quantization_flags(model: Any) -> None:
    model.is_loaded_in_8bit = model.is_loaded_in_4bit = False
