"""What a run will take, before it is begun: memory, FLOPs, hours and money.

Activations are counted on the model (kept.py), because its classes fuse less than Korthikanti et al. 2022
(arXiv:2205.05198, section 4.1), whose formula stands beside. FLOPs: PaLM (arXiv:2204.02311, appendix B), 6 per weight
and token and 12 x layers x width x length for attention. Shards: ZeRO (arXiv:1910.02054). 4 bits: nf4 with a scale per
64 weights (arXiv:2305.14314).
"""

from dataclasses import dataclass
from typing import Literal

from tasks.training.estimate.counting import Counts
from tasks.training.language.losses import CHUNK_BYTES

Base = Literal["fp32", "bf16", "int8", "nf4"]
Strategy = Literal["ddp", "zero1", "zero2", "zero3", "fsdp", "tensor"]

BASE_BYTES: dict[Base, float] = {"fp32": 4, "bf16": 2, "int8": 1, "nf4": 0.5 + 4 / 64}
STATE_BYTES = {"adamw": 8.0, "muon": 4.0, "lion": 4.0, "adamw_8bit": 2.0 + 8 / 256, "adafactor": 0.0}
SHARDED: dict[Strategy, tuple[str, ...]] = {
    "ddp": (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights"),
    "fsdp": ("optimizer", "gradients", "weights"),
    "tensor": ("optimizer", "gradients", "weights"),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process works on at once, and how."""

    rows: int
    length: int
    checkpointing: bool = False  # of activations: each block keeps its input alone
    fused_attention: bool = True  # kernels that keep no matrix of scores


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they are for, on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations


def full(
    counts: Counts, batch: Batch, precision: Literal["fp32", "bf16"], optimizer: str, strategy: Strategy, gpus: int
) -> Memory:
    """Memory of training every weight: fp32 masters, and beside them in bf16 a working copy and its gradients."""
    low = 2 if precision == "bf16" else 0
    state = STATE_BYTES[optimizer] * counts.total
    if optimizer == "muon":  # embeddings, head, norms and stacked experts are AdamW's
        state = 8 * counts.total - 4 * counts.by_muon
    held = {"weights": (4 + low) * counts.total, "gradients": (4 + low) * counts.total, "optimizer": state}
    parts = {name: size / (gpus if name in SHARDED[strategy] else 1) for name, size in held.items()}
    return Memory(**parts, activations=activations(counts, batch, 4 - low))


def lora(counts: Counts, batch: Batch, base: Base, rank: int) -> Memory:
    """Memory of training a LoRA with AdamW on a frozen base; what is added is trained in fp32 masters."""
    trained = counts.lora(rank)
    kept = counts.parts.get("embedding", 0) + counts.parts.get("head", 0) + counts.parts.get("norms", 0)
    frozen = BASE_BYTES[base] * (counts.total - kept) + max(2, BASE_BYTES[base]) * kept  # never in 4 or 8 bits
    size = 4 if base == "fp32" else 2
    weights = frozen + (4 if base == "fp32" else 6) * trained
    return Memory(weights, weights - frozen, 8 * trained, activations(counts, batch, size))


def activations(counts: Counts, batch: Batch, size: int) -> float:
    """Bytes that the forward pass keeps for the backward pass; `size`: bytes of a number."""
    tokens = batch.rows * batch.length
    block = layer(counts, batch, size)
    kept = counts.num_layers * (tokens * counts.width * size if batch.checkpointing else block)
    logits = min(CHUNK_BYTES["cuda"], tokens * counts.head // counts.width * size)
    return kept + (block if batch.checkpointing else 0) + logits


def layer(counts: Counts, batch: Batch, size: int) -> float:
    """Bytes that one block keeps: what autograd asks for, and of attention query, key, value and result.

    Where kernels are not fused, the scores too; an encoder-decoder has them always, for positions are added to them.
    Classes that cannot be counted are taken to keep what the paper says.
    """
    if counts.kept is None:
        return published(counts, batch) * size / 2
    scores = 0 if batch.fused_attention and counts.objective != "span" else counts.num_heads * batch.length * size
    return batch.rows * batch.length * (counts.kept[size] + 4 * size * counts.width + scores)


def published(counts: Counts, batch: Batch) -> float:
    """Bytes that one block keeps in 16 bits by arXiv:2205.05198, equation 1: s b h (34 + 5 a s / h).

    That is for dropout, an MLP of 4 x width and pointwise operations fused by hand; the scores' 5 a s / h fall away
    where attention is fused.
    """
    scores = 0 if batch.fused_attention else 5 * counts.num_heads * batch.length / counts.width
    return batch.rows * batch.length * counts.width * (34 + scores)


def flops(counts: Counts, tokens: float, length: int, checkpointing: bool = False, adapter: bool = False) -> float:
    """FLOPs of training on `tokens` tokens in rows of `length`.

    A product takes 2 per weight and token forward, as many for the gradient of its input, and as many for that of its
    weight unless it is frozen (`adapter`). Checkpointing adds one forward pass.
    """
    forward, attention = _forward(counts, length)
    passes = (2 if adapter else 3) + checkpointing
    return tokens * (passes * forward + (3 + checkpointing) * attention)


def _forward(counts: Counts, length: int) -> tuple[float, float]:
    """FLOPs per token of the row: products with weights, and of attention's scores and sums."""
    through = {"encoder": 1.0, "decoder": 1.0}
    logits = 1.0
    if counts.objective == "span":  # 15 % is cut out, in spans of 3, and comes back with a sentinel each
        through = {"encoder": 0.9, "decoder": 0.2}
        logits = 0.2
    if counts.objective == "masked":
        logits = 0.15
    weights = sum(share * counts.matrices[stack] for stack, share in through.items())
    return 2 * (weights + logits * counts.head), 4.0 * counts.num_layers * counts.width * length
