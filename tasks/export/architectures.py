"""How each kind of model is described in GGUF: the metadata of its shape, and the name and layout of each tensor.

A kind is a `model_type` of transformers. GGUF's metadata keys and tensor names are those of the package gguf; llama.cpp
expects matrices as [outputs, inputs], the experts of a layer as one tensor, and the weights of queries and keys of
`llama` with the two halves of each head interleaved, because it rotates neighboring numbers there.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.errors import BadModel

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "gpt2": "gpt2"}
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # Conv1D of gpt2
_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # llama.cpp computes this approximation


def check(config: Any) -> str:
    """Return the name of the architecture in GGUF. Raises BadModel if llama.cpp would compute something else."""
    kind = str(config.model_type)
    if kind not in ARCHITECTURES:
        raise BadModel(
            f"a model of the kind {kind!r} cannot be exported to GGUF, only {', '.join(sorted(ARCHITECTURES))}. "
            "Export it to safetensors-fp16 or safetensors-bf16 instead."
        )
    for problem in _problems(config, kind):
        raise BadModel(
            f"this {kind} model has {problem}, which its architecture in llama.cpp does not compute; export it to "
            "safetensors-fp16 or safetensors-bf16 instead."
        )
    return ARCHITECTURES[kind]


def _problems(config: Any, kind: str) -> Iterator[str]:
    """Settings of transformers that llama.cpp's architecture of this kind does not have."""
    expected = _GELU if kind == "gpt2" else ("silu",)
    activation = config.activation_function if kind == "gpt2" else config.hidden_act
    if activation not in expected:
        yield f"the activation {activation}"
    if kind == "gpt2":
        if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
            yield "another scale of attention"
        return
    if rope_type(config) != "default":
        yield f"rotary positions of the type {rope_type(config)}"
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        yield f"a sliding window of {config.sliding_window} tokens"
    if kind == "qwen3_moe":
        if not config.norm_topk_prob:
            yield "expert weights that are not normalized"
        if config.mlp_only_layers or config.decoder_sparse_step != 1:
            yield "layers without experts"


def rope_type(config: Any) -> str:
    """The type of the rotary position embeddings: "default", "linear", "yarn" ..."""
    return str((config.rope_parameters or {}).get("rope_type", "default"))


def metadata(config: Any) -> dict[str, int | float]:
    """The shape of a model as arguments of GGUFWriter's methods: `block_count` stands for `add_block_count`."""
    if config.model_type == "gpt2":
        return {
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "feed_forward_length": config.n_inner or 4 * config.n_embd,
            "block_count": config.n_layer,
            "head_count": config.n_head,
            "layer_norm_eps": config.layer_norm_epsilon,
        }
    head_dim = _head_dim(config)
    shape: dict[str, int | float] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_freq_base": float((config.rope_parameters or {}).get("rope_theta", 10_000.0)),
        "rope_dimension_count": head_dim,
        "key_length": head_dim,
        "value_length": head_dim,
    }
    if config.model_type == "qwen3_moe":
        shape |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    return shape


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def tensors(config: Any, weights: "Mapping[str, Tensor]") -> "Iterator[tuple[str, Tensor]]":
    """Yield (name in GGUF, tensor) for each tensor of a state dict, in the layout that llama.cpp reads.

    The head is left out where it is the embedding: llama.cpp then uses the embedding. Raises BadModel for a tensor that
    has no name in GGUF, because a model without it would be another model.
    """
    import gguf

    architecture = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[config.model_type]]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, weight in weights.items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        for part, tensor in _parts(config, name, weight):
            in_gguf = names.get_name(part, try_suffixes=(".weight", ".bias"))
            if in_gguf is None:
                raise BadModel(f"the tensor {name} has no name in GGUF; export the model to safetensors-fp16 instead.")
            yield in_gguf, tensor


def _parts(config: Any, name: str, weight: "Tensor") -> "Iterator[tuple[str, Tensor]]":
    """The tensors of GGUF that one tensor of transformers becomes, under names that the package gguf knows."""
    if name.endswith("experts.gate_up_proj"):  # [experts, 2 * width, hidden]
        gate, up = weight.chunk(2, dim=1)
        stem = name.removesuffix("gate_up_proj")
        yield f"{stem}gate_proj.weight", gate
        yield f"{stem}up_proj.weight", up
    elif name.endswith("experts.down_proj"):
        yield f"{name}.weight", weight
    elif config.model_type == "gpt2" and name.endswith(_TRANSPOSED):
        yield name, weight.T
    elif config.model_type == "llama" and ".q_proj." in name:
        yield name, interleave(weight, config.num_attention_heads)
    elif config.model_type == "llama" and ".k_proj." in name:
        yield name, interleave(weight, config.num_key_value_heads)
    else:
        yield name, weight


def interleave(weight: "Tensor", num_heads: int) -> "Tensor":
    """Reorder the outputs of each head from (first half, second half) to pairs of one number of each half.

    transformers rotates number i of a head with number i + head_dim / 2; llama.cpp's `llama` rotates neighbors.
    """
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
