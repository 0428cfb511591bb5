"""The lines of `python -m flows.estimate`: what a pretraining needs on given hardware, and whether it fits."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.errors import BadParams
from tasks.training.estimate import estimate
from tasks.training.estimate.counting import WeightCounts, count_checkpoint, count_shape
from tasks.training.estimate.estimate import BasePrecision, Memory, MicroBatch, Strategy
from tasks.training.loop import stage_files

GIB, MIB = 1 << 30, 1 << 20
CHINCHILLA = 20  # tokens per weight, arXiv:2203.15556

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
BASES: dict[BasePrecision, str] = {"bf16": "bf16", "int8": "8-bit", "nf4": "4-bit"}

# (memory in 10^9 bytes, dense 16-bit FLOP/s with fp32 accumulation), from the data sheets of NVIDIA.
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
class Options:
    """The options of the command: the hardware and its price. None means that the option was not given."""

    hardware: str | None = None  # a key of HARDWARE
    gpu_memory: float | None = None  # GiB of one device
    flops: float | None = None  # FLOP/s of one device
    mfu: float = 0.4  # model FLOPs utilization: the share of `flops` that training reaches
    gpus: int | None = None  # None: the number of processes in the params
    strategy: Strategy | None = None  # None: the strategy in the params
    price_per_hour: float | None = None  # of one device
    lora_rank: int = 8

    def memory_bytes(self) -> float | None:
        """The memory of one device, if it is known."""
        if self.gpu_memory is not None:
            return self.gpu_memory * GIB
        return HARDWARE[self.hardware][0] * 1e9 if self.hardware else None

    def speed(self) -> float | None:
        """The peak FLOP/s of one device, if they are known."""
        return self.flops or (HARDWARE[self.hardware][1] if self.hardware else None)


def find_base(params: Any, data: Path) -> Any:
    """The Params of pretrain with the folder of their base, if it is the name of a stage below `data`/models."""
    if params.base is None:
        return params
    return params.model_copy(update={"base": str(stage_files.find_model(params.base, data))})


def lines(params: Any, vocab_size: int, options: Options) -> Iterator[str]:
    """The estimate for `params`, the Params of pretrain. Raises BadParams, BadModel."""
    counts, options = _prepare(params, vocab_size, options)
    yield from _weight_lines(params, counts)
    yield from _compute_lines(params, counts, options)
    yield ""
    yield from _memory_lines(params, counts, options)


def numbers(params: Any, vocab_size: int, options: Options) -> dict[str, Any]:
    """The same estimate as values of JSON: memory in bytes, null for what is unknown. Raises BadParams, BadModel."""
    counts, options = _prepare(params, vocab_size, options)
    tokens, flops = _work(params, counts)
    hours = _hours(flops, options)
    price = None if hours is None or options.price_per_hour is None else _price(hours, options)
    memories = {name: {**asdict(m), "total": m.total} for name, m in _memories(params, counts, options)}
    return {
        "model": params.base or params.model.kind,
        "weights": {"total": counts.total, **counts.parts},
        "tokens": tokens,
        "flops": flops,
        "devices": options.gpus,
        "hours": hours,
        "price": price,
        "device_memory_bytes": options.memory_bytes(),
        "memory_bytes": memories,
    }


def _prepare(params: Any, vocab_size: int, options: Options) -> tuple[WeightCounts, Options]:
    """The weights of the model, and the options with the devices of the params. Raises BadParams, BadModel."""
    if options.hardware is not None and options.hardware not in HARDWARE:
        raise BadParams(
            f"--hardware {options.hardware} is unknown; there are: {', '.join(HARDWARE)}. "
            "For other hardware, give --flops and --gpu-memory."
        )
    strategy: Any = options.strategy or params.launch.strategy
    options = replace(options, gpus=options.gpus or params.launch.count, strategy=strategy)
    counts = count_checkpoint(params.base) if params.base else count_shape(params.model, vocab_size)
    return counts, options


def _work(params: Any, counts: WeightCounts) -> tuple[int, float]:
    """The tokens that training reads, and its FLOPs."""
    tokens = params.steps * params.global_batch_size * params.sequence_length
    return tokens, estimate.flops(counts, tokens, params.sequence_length, params.gradient_checkpointing)


def _hours(flops: float, options: Options) -> float | None:
    """The hours of the training; None if the speed of a device is unknown."""
    speed = options.speed()
    return None if speed is None else flops / (speed * options.mfu * (options.gpus or 1)) / 3600


def _price(hours: float, options: Options) -> float:
    return hours * (options.gpus or 1) * (options.price_per_hour or 0.0)


def _weight_lines(params: Any, counts: WeightCounts) -> Iterator[str]:
    model = params.base or params.model.kind
    shape = f"{counts.num_layers} layers, width {counts.width}, {counts.num_heads} heads"
    yield f"{model}: {shape}, vocabulary {counts.head // counts.width:,} ({params.objective})"
    yield ""
    yield f"{'weights':<12}{counts.total:>20,}  = {_short(counts.total)}"
    for part, number in counts.parts.items():
        yield f"  {part:<10}{number:>20,}  {number / counts.total:>6.1%}"


def _compute_lines(params: Any, counts: WeightCounts, options: Options) -> Iterator[str]:
    tokens, flops = _work(params, counts)
    batches = f"{params.steps:,} steps of {params.global_batch_size} rows of {params.sequence_length}"
    per_weight = f"{tokens / counts.total:.1f} per weight; Chinchilla: {_short(CHINCHILLA * counts.total)}"
    yield ""
    yield f"tokens      {_short(tokens)} ({batches}), {per_weight}"
    yield f"FLOPs       {flops:.3g}"
    speed, hours = options.speed(), _hours(flops, options)
    if speed is None or hours is None:
        yield "time        unknown: give --hardware NAME, or --flops of one device, for time and price"
        return
    devices = f"{options.gpus or 1} x {options.hardware or 'device'}, {options.mfu:.0%} of {speed:.3g} FLOP/s"
    yield f"time        {_duration(hours)} on {devices}"
    if options.price_per_hour is not None:
        yield f"price       {_price(hours, options):,.2f} at {options.price_per_hour:g} per device and hour"


def _memory_lines(params: Any, counts: WeightCounts, options: Options) -> Iterator[str]:
    limit = options.memory_bytes()
    memories = dict(_memories(params, counts, options))
    sharding = f", {options.strategy} on {options.gpus}" if (options.gpus or 1) > 1 else ""
    unit, size = ("GiB", GIB) if max(memory.total for memory in memories.values()) >= GIB else ("MiB", MIB)
    yield f"{unit} per device, {params.micro_batch_size} rows of {params.sequence_length} at once{sharding}"
    yield f"{'':<34}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'activations':>13}{'total':>10}"
    for setup, memory in memories.items():
        columns = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total)
        widths = (10, 11, 11, 13, 10)
        numbers = "".join(f"{column / size:>{width}.2f}" for column, width in zip(columns, widths, strict=True))
        verdict = "" if limit is None else "  fits" if memory.total <= limit else "  does not fit"
        yield f"{setup:<34}{numbers}{verdict}"
    batch = MicroBatch(params.micro_batch_size, params.sequence_length)
    published = counts.num_layers * estimate.published_layer_activations(counts, batch)
    yield f"activations if every operation were fused (arXiv:2205.05198), 16 bits: {published / size:.2f} {unit}"
    if limit is not None:
        yield ""
        yield _verdict(params, memories, limit)


def _memories(params: Any, counts: WeightCounts, options: Options) -> Iterator[tuple[str, Memory]]:
    """The rows of the table: the name of each setup and its memory."""
    batches = [
        MicroBatch(params.micro_batch_size, params.sequence_length, checkpointing) for checkpointing in (False, True)
    ]
    strategy, gpus = options.strategy or "ddp", options.gpus or 1
    for precision in PRECISIONS:
        for batch in batches:
            memory = estimate.full_memory(counts, batch, precision, params.optimizer, strategy, gpus)
            yield _setup(precision, params.optimizer, batch.checkpointing), memory
    for base, base_name in BASES.items():
        for batch in batches:
            setup = f"LoRA {options.lora_rank} on {base_name}" + (", checkpointing" if batch.checkpointing else "")
            yield setup, estimate.lora_memory(counts, batch, base, options.lora_rank)


def _setup(precision: str, optimizer: str, checkpointing: bool) -> str:
    return f"{precision}, {optimizer}" + (", checkpointing" if checkpointing else "")


def _verdict(params: Any, memories: dict[str, Memory], limit: float) -> str:
    precision = "fp32" if params.precision == "fp32" else "bf16"
    setup = _setup(precision, params.optimizer, params.gradient_checkpointing)
    needed, available = memories[setup].total / GIB, limit / GIB
    if memories[setup].total <= limit:
        return f"It fits: pretrain with its params ({setup}) needs {needed:.2f} of {available:.2f} GiB."
    fitting = [name for name, memory in memories.items() if memory.total <= limit]
    alternatives = f"These fit: {'; '.join(fitting)}. " if fitting else ""
    return (
        f"IT DOES NOT FIT: pretrain with its params ({setup}) needs {needed:.2f} GiB, but a device has "
        f"{available:.2f} GiB. {alternatives}A smaller micro_batch_size reduces activations; --strategy fsdp with more "
        "--gpus reduces everything else."
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
