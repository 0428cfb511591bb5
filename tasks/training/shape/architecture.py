"""A model from random weights: any of these Hugging Face classes, in the shape that params say."""

import math
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, Field, model_validator

from tasks.models import Objective, auto_class

Kind = Literal["llama", "qwen3", "gpt2", "qwen3_moe", "bert", "modernbert", "t5"]
OBJECTIVES: dict[Kind, Objective] = {"bert": "masked", "modernbert": "masked", "t5": "span"}  # the others: "causal"
LEARNED_POSITIONS = ("gpt2", "bert")  # have a weight for each position, and none beyond
OUTPUTS = (  # what blocks add to the residual stream
    "o_proj.weight", "down_proj.weight", "c_proj.weight", "experts.down_proj", "Wo.weight", ".o.weight", ".wo.weight",
)  # fmt: skip


class Architecture(BaseModel, frozen=True, extra="forbid"):
    """The shape of a Transformer: a decoder, an encoder (bert, modernbert), or one of each (t5)."""

    kind: Kind = "llama"
    width: int = Field(192, ge=8)
    num_layers: int = Field(4, ge=1, description="t5: of the encoder, and as many of the decoder")
    num_heads: int = Field(4, ge=1)
    num_key_value_heads: int | None = Field(None, ge=1, description="none = num_heads")
    mlp_width: int | None = Field(None, ge=8, description="none = 4 width; where gated, 8/3 width to a multiple of 32")
    num_experts: int = Field(8, ge=2, description="qwen3_moe: MLPs of mlp_width per layer")
    experts_per_token: int = Field(2, ge=1, description="qwen3_moe: how many of them a token goes through")
    load_balancing_coef: float = Field(0.001, ge=0, description="qwen3_moe: weight of the router's balance in the loss")
    max_length: int = Field(1024, ge=8, description="positions; gpt2 and bert have a weight for each")
    rope_theta: float = Field(10_000.0, gt=0)
    tie_embeddings: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    initial_std: float | None = Field(None, gt=0, description="none = sqrt(2 / 5 width), arXiv:1910.05895; not for t5")
    zero_outputs: bool = Field(False, description="every block begins as the identity: arXiv:1901.09321")

    @model_validator(mode="after")
    def _divisible(self) -> "Architecture":
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 * num_heads ({2 * self.num_heads})")
        if self.num_heads % (self.num_key_value_heads or self.num_heads):
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_key_value_heads")
        if self.experts_per_token > self.num_experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} is more than num_experts {self.num_experts}")
        if self.zero_outputs and self.kind == "bert":
            raise ValueError("zero_outputs is not for bert: its norms stand behind the blocks")
        return self

    @property
    def objective(self) -> Objective:
        """What such a model is pretrained for."""
        return OBJECTIVES.get(self.kind, "causal")


def all_objectives() -> dict[Kind, Objective]:
    """Each kind of model and what it is pretrained for."""
    return {kind: OBJECTIVES.get(kind, "causal") for kind in get_args(Kind)}


def build(shape: Architecture, tokenizer: Any, seed: int) -> Any:
    """A Hugging Face model with random fp32 weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(shape.objective).from_config(config(shape, tokenizer), dtype=torch.float32)
    if shape.zero_outputs:
        for name, parameter in model.named_parameters():
            if name.endswith(OUTPUTS):
                torch.nn.init.zeros_(parameter)
    return model


def config(shape: Architecture, tokenizer: Any) -> Any:
    """The Hugging Face config of `shape`."""
    from transformers import AutoConfig

    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    given = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **ids}
    given |= {"tie_word_embeddings": shape.tie_embeddings, "use_cache": True}
    given["initializer_range"] = shape.initial_std or math.sqrt(2 / (5 * shape.width))
    given |= (
        {"cls_token_id": ids["bos_token_id"], "sep_token_id": ids["eos_token_id"]} if shape.kind == "modernbert" else {}
    )
    given |= {"decoder_start_token_id": tokenizer.pad_token_id} if shape.kind == "t5" else {}
    return AutoConfig.for_model(shape.kind, **(given | _SETTINGS[shape.kind](shape)))


def _gated_width(shape: Architecture) -> int:
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
        "norm_topk_prob": True,  # as Qwen3's own
        "router_aux_loss_coef": shape.load_balancing_coef,
    }


def _gpt2(shape: Architecture) -> dict[str, Any]:
    drops = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), shape.dropout)
    return {
        "n_embd": shape.width,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_inner": shape.mlp_width,
        "n_positions": shape.max_length,
        **drops,
    }


def _bert(shape: Architecture) -> dict[str, Any]:
    drops = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), shape.dropout)
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.mlp_width or 4 * shape.width,
        "max_position_embeddings": shape.max_length,
        **drops,
    }


def _modernbert(shape: Architecture) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    drops = dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout"), shape.dropout)
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": _gated_width(shape),
        "max_position_embeddings": shape.max_length,
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
        **drops,
    }


def _t5(shape: Architecture) -> dict[str, Any]:
    return {
        "d_model": shape.width,
        "d_kv": shape.width // shape.num_heads,
        "d_ff": _gated_width(shape),
        "num_layers": shape.num_layers,
        "num_heads": shape.num_heads,
        "feed_forward_proj": "gated-gelu",  # T5 1.1
        "dropout_rate": shape.dropout,
        "tie_word_embeddings": True,  # transformers ties them whatever is asked
    }


_SETTINGS = {
    "llama": _llama, "qwen3": _llama, "qwen3_moe": _qwen3_moe, "gpt2": _gpt2,
    "bert": _bert, "modernbert": _modernbert, "t5": _t5,
}  # fmt: skip
