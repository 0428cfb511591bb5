"""A model with random weights: a class of transformers in the shape that the params describe."""

import math
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, Field, model_validator

from tasks.models import Objective, auto_class

Kind = Literal["llama", "qwen3", "gpt2", "qwen3_moe", "bert", "modernbert", "t5"]
OBJECTIVES: dict[Kind, Objective] = {"bert": "masked", "modernbert": "masked", "t5": "span"}  # the others: "causal"
LEARNED_POSITIONS = ("gpt2", "bert")  # these learn an embedding for each position, so max_length limits them
RESIDUAL_OUTPUTS = (  # the weights whose results are added to the residual stream
    "o_proj.weight", "down_proj.weight", "c_proj.weight", "experts.down_proj", "Wo.weight", ".o.weight", ".wo.weight",
)  # fmt: skip


class Architecture(BaseModel, frozen=True, extra="forbid"):
    """The shape of a Transformer: a decoder, an encoder (bert, modernbert) or an encoder-decoder (t5)."""

    kind: Kind = Field("llama", description="The model class of transformers.")
    width: int = Field(192, ge=8, description="Size of the hidden states.")
    num_layers: int = Field(
        4, ge=1, description="Number of layers. t5 has this many in the encoder and as many in the decoder."
    )
    num_heads: int = Field(4, ge=1, description="Number of attention heads.")
    num_key_value_heads: int | None = Field(
        None, ge=1, description="Number of key and value heads (grouped-query attention); null means num_heads. "
        "For llama, qwen3 and qwen3_moe.",
    )  # fmt: skip
    mlp_width: int | None = Field(
        None, ge=8, description="Hidden size of the MLP. null means 4 * width; for a gated MLP, 8/3 * width, rounded "
        "up to a multiple of 32.",
    )  # fmt: skip
    num_experts: int = Field(8, ge=2, description="qwen3_moe: number of experts (MLPs of mlp_width) in each layer.")
    experts_per_token: int = Field(2, ge=1, description="qwen3_moe: number of experts that process each token.")
    load_balancing_coef: float = Field(
        0.001, ge=0, description="qwen3_moe: factor of the load-balancing loss in the loss (arXiv:2101.03961)."
    )
    max_length: int = Field(
        1024, ge=8, description="Longest context, in tokens. gpt2 and bert have one embedding for each position."
    )
    rope_theta: float = Field(
        10_000.0, gt=0, description="Base of the rotary position embeddings (arXiv:2104.09864)."
    )  # fmt: skip
    tie_embeddings: bool = Field(True, description="Whether the head is the transposed embedding; t5 always ties them.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropout.")
    initial_std: float | None = Field(
        None, gt=0, description="Standard deviation of the first weights. null means sqrt(2 / (5 * width)) "
        "(arXiv:1910.05895). t5 ignores it.",
    )  # fmt: skip
    zero_outputs: bool = Field(
        False, description="Whether the last weights of every block begin at zero, so that it begins as the identity "
        "(arXiv:1901.09321). Not for bert.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _divisible(self) -> "Architecture":
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 * num_heads ({2 * self.num_heads})")
        if self.num_heads % (self.num_key_value_heads or self.num_heads):
            raise ValueError(
                f"num_heads {self.num_heads} must be a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} must be at most num_experts ({self.num_experts})"
            )
        if self.zero_outputs and self.kind == "bert":
            raise ValueError(
                "zero_outputs is not possible for bert: it normalizes after each block, so a block cannot begin as the "
                "identity. Set zero_outputs: false, or choose another kind"
            )
        return self

    @property
    def objective(self) -> Objective:
        """The objective that such a model is pretrained for."""
        return OBJECTIVES.get(self.kind, "causal")


def all_objectives() -> dict[Kind, Objective]:
    """The objective that each kind of model is pretrained for."""
    return {kind: OBJECTIVES.get(kind, "causal") for kind in get_args(Kind)}


def build(shape: Architecture, tokenizer: Any, seed: int) -> Any:
    """A model of transformers with random fp32 weights, which depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(shape.objective).from_config(config(shape, tokenizer), dtype=torch.float32)
    if shape.zero_outputs:
        for name, parameter in model.named_parameters():
            if name.endswith(RESIDUAL_OUTPUTS):
                torch.nn.init.zeros_(parameter)
    return model


def config(shape: Architecture, tokenizer: Any) -> Any:
    """The config of transformers for `shape`."""
    from transformers import AutoConfig

    settings = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": shape.tie_embeddings,
        "use_cache": True,
        "initializer_range": shape.initial_std or math.sqrt(2 / (5 * shape.width)),
    }
    if shape.kind == "modernbert":
        settings |= {"cls_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.eos_token_id}
    if shape.kind == "t5":
        settings |= {"decoder_start_token_id": tokenizer.pad_token_id}
    return AutoConfig.for_model(shape.kind, **(settings | _SETTINGS[shape.kind](shape)))


def _gated_width(shape: Architecture) -> int:
    """A gated MLP has three matrices instead of two: 8/3 * width gives the same number of weights as 4 * width."""
    return shape.mlp_width or 32 * math.ceil(shape.width * 8 / 3 / 32)


def _llama(shape: Architecture) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_key_value_heads or shape.num_heads,
        "head_dim": shape.width // shape.num_heads,
        "intermediate_size": _gated_width(shape),
        "max_position_embeddings": shape.max_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_dropout": shape.dropout,
    }


def _qwen3_moe(shape: Architecture) -> dict[str, Any]:
    return _llama(shape) | {
        "moe_intermediate_size": _gated_width(shape),
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.experts_per_token,
        "norm_topk_prob": True,  # as in the published Qwen3 models
        "router_aux_loss_coef": shape.load_balancing_coef,
    }


def _gpt2(shape: Architecture) -> dict[str, Any]:
    dropouts = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), shape.dropout)
    return {
        "n_embd": shape.width,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_inner": shape.mlp_width,
        "n_positions": shape.max_length,
        **dropouts,
    }


def _bert(shape: Architecture) -> dict[str, Any]:
    dropouts = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), shape.dropout)
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.mlp_width or 4 * shape.width,
        "max_position_embeddings": shape.max_length,
        **dropouts,
    }


def _modernbert(shape: Architecture) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    dropouts = dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout"), shape.dropout)
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": _gated_width(shape),
        "max_position_embeddings": shape.max_length,
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
        **dropouts,
    }


def _t5(shape: Architecture) -> dict[str, Any]:
    return {
        "d_model": shape.width,
        "d_kv": shape.width // shape.num_heads,
        "d_ff": _gated_width(shape),
        "num_layers": shape.num_layers,
        "num_heads": shape.num_heads,
        "feed_forward_proj": "gated-gelu",  # the gated MLP of T5 1.1
        "dropout_rate": shape.dropout,
        "tie_word_embeddings": True,  # transformers ties them even if this is False
    }


_SETTINGS = {
    "llama": _llama, "qwen3": _llama, "qwen3_moe": _qwen3_moe, "gpt2": _gpt2,
    "bert": _bert, "modernbert": _modernbert, "t5": _t5,
}  # fmt: skip
