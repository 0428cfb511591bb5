"""Memory and FLOPs of a training run, computed from the counts of its model.

Activations are counted on the model (saved_activations.py), because the classes of transformers fuse fewer operations
than Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), whose formula is here for comparison. FLOPs: PaLM
(arXiv:2204.02311, appendix B), 6 per weight and token and 12 * layers * width * length per token for attention.
Sharding: ZeRO (arXiv:1910.02054). 4 bits: NF4 with one scale per 64 weights (arXiv:2305.14314).
"""

from dataclasses import dataclass
from typing import Literal

from tasks.causal.losses import CHUNK_BYTES
from tasks.training.estimate.counting import WeightCounts

BasePrecision = Literal["fp32", "bf16", "int8", "nf4"]
Strategy = Literal["ddp", "zero1", "zero2", "zero3", "fsdp", "tensor"]

BASE_BYTES: dict[BasePrecision, float] = {"fp32": 4, "bf16": 2, "int8": 1, "nf4": 0.5 + 4 / 64}
# Bytes of optimizer state per weight: moments in fp32, or in 8 bits with an fp32 scale for each block of 256 numbers.
STATE_BYTES = {"adamw": 8.0, "muon": 4.0, "lion": 4.0, "adamw_8bit": 2.0 + 8 / 256, "adafactor": 0.0}
SHARDED: dict[Strategy, tuple[str, ...]] = {  # what each strategy divides among the processes
    "ddp": (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights"),
    "fsdp": ("optimizer", "gradients", "weights"),
    "tensor": ("optimizer", "gradients", "weights"),
}


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The rows that one process computes at once, and how it saves memory."""

    rows: int
    length: int  # tokens of a row
    checkpointing: bool = False  # of activations: each block saves only its input
    fused_attention: bool = True  # kernels that save no matrix of scores


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device, by their use."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """The sum of all uses."""
        return self.weights + self.gradients + self.optimizer + self.activations


def full_memory(
    counts: WeightCounts,
    batch: MicroBatch,
    precision: Literal["fp32", "bf16"],
    optimizer: str,
    strategy: Strategy,
    gpus: int,
) -> Memory:
    """Memory for training every weight: fp32 masters, and with bf16 also a working copy and its gradients."""
    copy_bytes = 2 if precision == "bf16" else 0
    state = STATE_BYTES[optimizer] * counts.total
    if optimizer == "muon":  # AdamW updates embeddings, head, norms and stacked experts
        state = 8 * counts.total - 4 * counts.muon
    gradients = weights = (4 + copy_bytes) * counts.total
    unsharded = {"weights": weights, "gradients": gradients, "optimizer": state}
    per_device = {use: size / (gpus if use in SHARDED[strategy] else 1) for use, size in unsharded.items()}
    return Memory(**per_device, activations=activations(counts, batch, 4 - copy_bytes))


def lora_memory(counts: WeightCounts, batch: MicroBatch, base: BasePrecision, rank: int) -> Memory:
    """Memory for training a LoRA with AdamW on a frozen base model. The LoRA has fp32 masters."""
    trained = counts.lora(rank)
    # Embeddings, head and norms are never quantized.
    unquantized = counts.parts.get("embedding", 0) + counts.parts.get("head", 0) + counts.parts.get("norms", 0)
    frozen = BASE_BYTES[base] * (counts.total - unquantized) + max(2, BASE_BYTES[base]) * unquantized
    size = 4 if base == "fp32" else 2
    weights = frozen + (4 if base == "fp32" else 6) * trained
    return Memory(weights, weights - frozen, 8 * trained, activations(counts, batch, size))


def activations(counts: WeightCounts, batch: MicroBatch, size: int) -> float:
    """Bytes that the forward pass saves for the backward pass; `size`: bytes of a number."""
    tokens = batch.rows * batch.length
    block = layer_activations(counts, batch, size)
    saved = counts.num_layers * (tokens * counts.width * size if batch.checkpointing else block)
    recomputed = block if batch.checkpointing else 0  # the backward pass computes one block at a time again
    logits = min(CHUNK_BYTES["cuda"], tokens * counts.head // counts.width * size)
    return saved + recomputed + logits


def layer_activations(counts: WeightCounts, batch: MicroBatch, size: int) -> float:
    """Bytes that one block saves: the tensors counted on the model, and query, key, value and result of attention.

    Kernels that are not fused save the scores too. An encoder-decoder always saves them, because T5 adds position
    biases to them. A class that cannot be counted is assumed to save what the published formula says.
    """
    if counts.saved_bytes is None:
        return published_layer_activations(counts, batch) * size / 2
    scores = 0 if batch.fused_attention and counts.objective != "span" else counts.num_heads * batch.length * size
    return batch.rows * batch.length * (counts.saved_bytes[size] + 4 * size * counts.width + scores)


def published_layer_activations(counts: WeightCounts, batch: MicroBatch) -> float:
    """Bytes that one block saves in 16 bits by arXiv:2205.05198, equation 1: s b h (34 + 5 a s / h).

    s: length, b: rows, h: width, a: heads. The formula assumes dropout, an MLP of 4 * width and fused pointwise
    operations. Fused attention saves no scores, which are the term 5 a s / h.
    """
    scores = 0 if batch.fused_attention else 5 * counts.num_heads * batch.length / counts.width
    return batch.rows * batch.length * counts.width * (34 + scores)


def flops(
    counts: WeightCounts, tokens: float, length: int, checkpointing: bool = False, adapter: bool = False
) -> float:
    """FLOPs of training on `tokens` tokens in rows of `length`.

    A product takes 2 FLOPs per weight and token in the forward pass, 2 for the gradient of its input, and 2 for the
    gradient of its weight unless the weight is frozen (`adapter`). Checkpointing adds one forward pass.
    """
    matrix_flops, attention_flops = _forward_flops(counts, length)
    passes = (2 if adapter else 3) + checkpointing
    return tokens * (passes * matrix_flops + (3 + checkpointing) * attention_flops)


def _forward_flops(counts: WeightCounts, length: int) -> tuple[float, float]:
    """FLOPs of the forward pass per token: products with weights; scores and weighted sums of attention."""
    token_share = {"encoder": 1.0, "decoder": 1.0}  # tokens that pass each stack, per token of the text
    logits_share = 1.0
    if counts.objective == "span":
        # 15 % of the tokens are corrupted, in spans of 3, which adds 5 % sentinels on both sides: 85 % + 5 % of the
        # tokens enter the encoder, 15 % + 5 % the decoder.
        token_share = {"encoder": 0.9, "decoder": 0.2}
        logits_share = 0.2
    if counts.objective == "masked":
        logits_share = 0.15
    weights = sum(share * counts.matrices[stack] for stack, share in token_share.items())
    return 2 * (weights + logits_share * counts.head), 4.0 * counts.num_layers * counts.width * length
