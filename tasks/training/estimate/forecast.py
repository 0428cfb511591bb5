"""Lines that say what a pretraining will take on given hardware, and whether it fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from tasks.errors import BadParams
from tasks.training.estimate import estimate
from tasks.training.estimate.counting import Counts, count_checkpoint, count_shape
from tasks.training.estimate.estimate import Base, Batch, Memory, Strategy

GIB, MIB = 1 << 30, 1 << 20
CHINCHILLA = 20  # tokens per weight, arXiv:2203.15556

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
BASES: dict[Base, str] = {"bf16": "bf16", "int8": "8-bit", "nf4": "4-bit"}

# Memory in units of 10^9 bytes and dense 16-bit FLOP/s with fp32 sums, as the makers' data sheets have them.
HARDWARE = {
    "a100-40": (40, 312e12),
    "a100": (80, 312e12),
    "h100": (80, 989e12),
    "h200": (141, 989e12),
    "l4": (24, 121e12),
    "t4": (16, 65e12),
    "v100": (32, 125e12),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """The hardware and what it costs. None = not asked."""

    hardware: str | None = None
    gpu_memory: float | None = None  # GiB
    flops: float | None = None  # per second and device
    mfu: float = 0.4  # share of them that the model's FLOPs get
    gpus: int | None = None  # None = as many processes as the params launch
    strategy: Strategy | None = None  # None = as they share them
    price_per_hour: float | None = None  # of one device
    lora_rank: int = 8

    def memory_bytes(self) -> float | None:
        """Of one device, where it is known."""
        if self.gpu_memory is not None:
            return self.gpu_memory * GIB
        return HARDWARE[self.hardware][0] * 1e9 if self.hardware else None

    def speed(self) -> float | None:
        """FLOP/s of one device, where it is known."""
        return self.flops or (HARDWARE[self.hardware][1] if self.hardware else None)


def counts(params: Any, vocab_size: int) -> Counts:
    """Counts of the model that a pretrain section describes. Raises BadModel."""
    return count_checkpoint(params.base) if params.base else count_shape(params.model, vocab_size)


def lines(params: Any, vocab_size: int, terms: Terms) -> Iterator[str]:
    """What `params`, a pretrain section, will take. Raises BadParams, BadModel."""
    if terms.hardware is not None and terms.hardware not in HARDWARE:
        raise BadParams(f"--hardware {terms.hardware} is not known; there are: {', '.join(HARDWARE)}. Or give --flops.")
    strategy: Any = terms.strategy or params.launch.strategy
    terms = replace(terms, gpus=terms.gpus or params.launch.count, strategy=strategy)
    counted = counts(params, vocab_size)
    yield from _parameters(params, counted, vocab_size)
    yield from _work(params, counted, terms)
    yield ""
    yield from _memory(params, counted, terms)


def _parameters(params: Any, counted: Counts, vocab_size: int) -> Iterator[str]:
    model = params.base or params.model.kind
    shape = f"{counted.num_layers} layers, width {counted.width}, {counted.num_heads} heads"
    yield f"{model}: {shape}, vocabulary {counted.head // counted.width:,} ({params.objective})"
    yield ""
    yield f"{'weights':<12}{counted.total:>20,}  = {_short(counted.total)}"
    for part, number in counted.parts.items():
        yield f"  {part:<10}{number:>20,}  {number / counted.total:>6.1%}"


def _work(params: Any, counted: Counts, terms: Terms) -> Iterator[str]:
    gpus = terms.gpus or 1
    tokens = params.steps * params.global_batch_size * params.sequence_length
    work = estimate.flops(counted, tokens, params.sequence_length, params.gradient_checkpointing)
    rows = f"{params.steps:,} steps of {params.global_batch_size} rows of {params.sequence_length}"
    per_weight = f"{tokens / counted.total:.1f} per weight; Chinchilla: {_short(CHINCHILLA * counted.total)}"
    yield ""
    yield f"tokens      {_short(tokens)} ({rows}), {per_weight}"
    yield f"FLOPs       {work:.3g}"
    speed = terms.speed()
    if speed is None:
        yield "time        give --hardware NAME, or --flops of one device, for time and money"
        return
    hours = work / (speed * terms.mfu * gpus) / 3600
    on = f"{gpus} x {terms.hardware or 'device'}, {terms.mfu:.0%} of {speed:.3g} FLOP/s"
    yield f"time        {_duration(hours)} on {on}"
    if terms.price_per_hour is not None:
        cost = hours * gpus * terms.price_per_hour
        yield f"money       {cost:,.2f} at {terms.price_per_hour:g} per device and hour"


def _memory(params: Any, counted: Counts, terms: Terms) -> Iterator[str]:
    limit = terms.memory_bytes()
    found = dict(_ways(params, counted, terms))
    shared = f", {terms.strategy} on {terms.gpus}" if (terms.gpus or 1) > 1 else ""
    unit, size = ("GiB", GIB) if max(memory.total for memory in found.values()) >= GIB else ("MiB", MIB)
    yield f"{unit} per device, {params.micro_batch_size} rows of {params.sequence_length} at once{shared}"
    yield f"{'':<34}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'activations':>13}{'all':>10}"
    for way, memory in found.items():
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total)
        numbers = "".join(f"{part / size:>{width}.2f}" for part, width in zip(parts, (10, 11, 11, 13, 10), strict=True))
        verdict = "" if limit is None else "  fits" if memory.total <= limit else "  does not fit"
        yield f"{way:<34}{numbers}{verdict}"
    paper = counted.num_layers * estimate.published(counted, Batch(params.micro_batch_size, params.sequence_length))
    yield f"activations with every operation fused (arXiv:2205.05198), 16 bits: {paper / size:.2f} {unit}"
    if limit is not None:
        yield ""
        yield _verdict(params, found, limit)


def _ways(params: Any, counted: Counts, terms: Terms) -> Iterator[tuple[str, Memory]]:
    plain = Batch(params.micro_batch_size, params.sequence_length)
    light = Batch(params.micro_batch_size, params.sequence_length, checkpointing=True)
    strategy, gpus = terms.strategy or "ddp", terms.gpus or 1
    for precision in PRECISIONS:
        for batch in (plain, light):
            name = f"{precision}, {params.optimizer}" + (", checkpointing" if batch.checkpointing else "")
            memory = estimate.full(counted, batch, precision, params.optimizer, strategy, gpus)
            yield name, memory
    for base, bits in BASES.items():
        for batch in (plain, light):
            name = f"LoRA {terms.lora_rank} on {bits}" + (", checkpointing" if batch.checkpointing else "")
            yield name, estimate.lora(counted, batch, base, terms.lora_rank)


def _verdict(params: Any, found: dict[str, Memory], limit: float) -> str:
    precision = "fp32" if params.precision == "fp32" else "bf16"
    name = f"{precision}, {params.optimizer}" + (", checkpointing" if params.gradient_checkpointing else "")
    need, room = found[name].total / GIB, limit / GIB
    if found[name].total <= limit:
        return f"It fits: pretrain as params say ({name}) needs {need:.2f} of {room:.2f} GiB."
    fitting = [way for way, memory in found.items() if memory.total <= limit]
    remedy = f"These fit: {'; '.join(fitting)}. " if fitting else ""
    return (
        f"IT DOES NOT FIT: pretrain as params say ({name}) needs {need:.2f} GiB, there are {room:.2f}. {remedy}"
        "A smaller micro_batch_size needs less for activations, --strategy fsdp on more --gpus less for all else."
    )


def _short(number: float) -> str:
    """175_000_000_000 -> 175B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.1f} minutes" if hours >= 1 / 60 else "under a minute"
