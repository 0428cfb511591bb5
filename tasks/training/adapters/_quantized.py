"""A frozen base in 8 or 4 bits under an adapter, by bitsandbytes: a quarter or an eighth of the memory of fp32 weights.

8: LLM.int8 (arXiv:2208.07339), activations too. 4: NF4, as QLoRA has it (arXiv:2305.14314). Embeddings, norms and the
vocabulary head stay as they are.
"""

import importlib.util
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.errors import BadParams

Bits = Literal[4, 8]


def quantize(model: Any, bits: Bits) -> None:
    """Put the linear maps of `model`'s blocks in `bits` bits, in place. Raises BadParams without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadParams("adapter.base_bits needs bitsandbytes: pip install bitsandbytes, or leave it out")
    from transformers.pytorch_utils import Conv1D

    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")  # bitsandbytes, at every start
    for name, module in list(model.base_model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D):
            turned = isinstance(module, Conv1D)  # GPT-2's maps are stored the other way round
            weight = module.weight.detach().T.contiguous() if turned else module.weight.detach()
            made: Any = _linear(weight, module.bias, bits)
            made.was_turned = turned  # for tasks.models, which puts a plain map back
            model.base_model.set_submodule(name, made)
    setattr(model, f"is_loaded_in_{bits}bit", True)  # what peft looks at
    model.requires_grad_(False)


def _linear(weight: Tensor, bias: Tensor | None, bits: Bits) -> nn.Module:
    """weight [out, in] as a linear map of bitsandbytes."""
    import bitsandbytes as bnb

    size = weight.shape[1], weight.shape[0], bias is not None
    made: Any = (
        bnb.nn.Linear8bitLt(*size, has_fp16_weights=False)
        if bits == 8
        else bnb.nn.Linear4bit(*size, compute_dtype=torch.float32, quant_type="nf4")
    )
    made.support_avx512bf16_for_cpu = False  # weights repacked for decoding: not to the bit, and not at every width
    made.load_state_dict({"weight": weight} | ({"bias": bias.detach()} if bias is not None else {}))
    return made.to(weight.device)  # type: ignore[no-any-return]  # which is when bitsandbytes does its work
