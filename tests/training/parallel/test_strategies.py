"""With two processes, every strategy gives the losses, norms and weights of one process.

A checkpoint can be loaded by any number of processes. Tolerances of losses and gradient norms are relative: a strategy
changes the order of sums, so results differ by a few units of rounding (6e-8 of the value in fp32).
"""

import copy
import importlib.util
import warnings
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tasks import catalog, models
from tasks.causal import attention
from tasks.errors import BadParams
from tasks.reports import Timings
from tasks.tokens import Stream
from tasks.training import adapters
from tasks.training.language import compilation, float8
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tasks.training.parallel import strategies
from tasks.training.stages import sft
from tests.training import tiny
from tests.training.models import small_model
from tests.training.processes import in_processes

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own

ZERO = ("zero1", "zero2", "zero3")
with_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="pip install -e '.[zero]'")


def zero_param(strategy: str, *values: Any) -> Any:
    """A case that needs DeepSpeed, which is an extra."""
    return pytest.param(strategy, *values, marks=with_deepspeed)


STRATEGIES = ["ddp", "fsdp", "tensor", *map(zero_param, ZERO)]
PARAMS: dict[str, Any] = {"steps": 8, "learning_rate": 0.01, "warmup_steps": 2, "precision": "fp32", "num_threads": 1,
                          "device": "cpu", "log_every": 1, "evaluate_every": 4, "checkpoint_every": 3}  # fmt: skip
Log = list[dict[str, Any]]


def stream() -> Stream:
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 20, 40)
    ids = rng.integers(6, 300, lengths.sum()).astype(np.uint16)
    positions = np.concatenate([np.arange(n, dtype=np.uint32) for n in lengths])
    return Stream(ids, positions, (positions > 0).astype(np.uint8))


def train(
    folder: Path,
    strategy: str = "ddp",
    kind: str = "llama",
    adapter: Any = None,
    wrapped: Any = nullcontext,
    **changes: Any,
) -> Any:
    """Train with five micro-batches per step, of which one of two processes has three. Return step log and weights."""
    model = small_model(kind, num_heads=4, num_key_value_heads=2) if kind != "gpt2" else small_model(kind)
    model = adapters.attach(model, sft.Params(adapter=adapter).adapter, seed=0)
    rows, validation = (PackedRows(stream(), 32, 5, 1, seed, 0) for seed in (0, 1))
    params = LoopParams(**{**PARAMS, "launch": {"strategy": strategy}, **changes})
    if strategy in ZERO:
        warnings.simplefilter("ignore")  # in a forked process: DeepSpeed calls deprecated functions
    with attention.packed(model), wrapped(model):
        log = run(NextToken(model, rows, validation, 4), params, folder, "test")
    assert type(copy.deepcopy(model)).__name__ == type(small_model(kind) if adapter is None else model).__name__
    assert {type(p) for p in model.parameters()} == {torch.nn.Parameter}
    return log, {name: p.detach().clone() for name, p in model.named_parameters()}


def column(log: Log, name: str) -> list[float]:
    return [row[name] for row in log if row[name] is not None]


def equal_runs(
    one: tuple[Log, dict[str, Tensor]], other: tuple[Log, dict[str, Tensor]], tolerance: float = 1e-5
) -> bool:
    """Whether weights are equal up to the order of sums in fp32; asserts the same of losses and gradient norms."""
    for name, limit in (("loss", tolerance), ("gradient_norm", 10 * tolerance), ("validation_loss", tolerance)):
        assert column(other[0], name) == pytest.approx(column(one[0], name), rel=limit, abs=0), name
    assert one[1].keys() == other[1].keys()
    # The bias of keys has no effect on attention: its gradient is rounding noise, which AdamW scales to full steps.
    names = [name for name in one[1] if not name.endswith(("attn.c_attn.bias", "self.key.bias"))]
    return all((one[1][name] - other[1][name]).abs().max() < 100 * tolerance for name in names)


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [("ddp", "llama"), *product(("fsdp", "tensor"), ("llama", "qwen3")), *(zero_param(name, "llama") for name in ZERO)],
)
def test_two_processes_do_what_one_does(tmp_path: Path, strategy: str, kind: str) -> None:
    one = train(tmp_path / "one", kind=kind)
    for two in in_processes(lambda: train(tmp_path / "two", strategy, kind)):
        assert equal_runs(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("fsdp", {"gradient_checkpointing": True}),
        ("tensor", {"gradient_checkpointing": True}),
        ("fsdp", {"kind": "gpt2", "weight_decay": 0.0}),
        ("fsdp", {"adapter": "lora"}),
        ("fsdp", {"adapter": "prompt_tuning"}),
        ("fsdp", {"optimizer": "muon"}),
        ("tensor", {"optimizer": "muon"}),
        ("fsdp", {"keep_best": True}),
        ("tensor", {"keep_best": True}),
        *(zero_param(strategy, {"keep_best": True}) for strategy in ZERO),
        zero_param("zero3", {"adapter": "lora"}),
        zero_param("zero3", {"gradient_checkpointing": True}),
    ],
)
def test_training_options(tmp_path: Path, strategy: str, changes: dict[str, Any]) -> None:
    one = train(tmp_path / "one", **changes)
    # Muon multiplies in bf16, where shards of a matrix round differently from the whole matrix.
    tolerance = 1e-3 if "optimizer" in changes else 1e-5
    assert equal_runs(one, in_processes(lambda: train(tmp_path / "two", strategy, **changes))[0], tolerance)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # torch's
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_compiled_too(tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")  # every pass of the compiler but code generation
    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")

    def wrapped(model: Any) -> Any:
        return compilation.compiled(model, "on", 8, torch.device("cpu"))

    two = in_processes(lambda: train(tmp_path / "two", strategy, wrapped=wrapped))[0]
    assert equal_runs(train(tmp_path / "one"), two)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_in_eight_bits_too(tmp_path: Path, strategy: str) -> None:
    """Float8 is emulated. Each process scales its part of a matrix separately, so losses are close but not equal."""
    one = train(tmp_path / "one", wrapped=float8.converted_to_float8)
    two = in_processes(lambda: train(tmp_path / "two", strategy, wrapped=float8.converted_to_float8))[0]
    assert column(two[0], "loss") == pytest.approx(column(one[0], "loss"), rel=4e-3, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_bf16_too(tmp_path: Path, strategy: str) -> None:
    one = train(tmp_path / "one", precision="bf16")
    two = in_processes(lambda: train(tmp_path / "two", strategy, precision="bf16"))[0]
    assert column(two[0], "loss") == pytest.approx(column(one[0], "loss"), rel=4e-3, abs=0)
    assert {value.dtype for value in two[1].values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_number_of_processes_may_change_on_the_way(tmp_path: Path, strategy: str) -> None:
    """A run of eight steps stops after six in two processes and continues in one, and the reverse."""
    whole = train(tmp_path / "whole")
    in_processes(lambda: stopped(tmp_path / "down", strategy))
    assert equal_runs(whole, train(tmp_path / "down"))
    stopped(tmp_path / "up")
    assert equal_runs(whole, in_processes(lambda: train(tmp_path / "up", strategy))[0])


def stopped(folder: Path, strategy: str = "ddp") -> None:
    """Run until a failure after the checkpoint of step 6."""

    class Killed(BaseException):
        pass

    original = NextToken.batches

    def batches(self: NextToken, step: int) -> Any:
        if step == 7:
            raise Killed
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NextToken, "batches", batches)
        with pytest.raises(Killed):
            train(folder, strategy)
    assert (folder / "000000006").is_dir()


def test_what_a_strategy_cannot_do_is_said(tmp_path: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(BadParams, match=message):
            train(tmp_path / "refused", "tensor", **changes)

    in_processes(lambda: refused("supports llama, qwen3, not gpt2", kind="gpt2"))
    in_processes(lambda: refused("cannot split adapters", adapter="lora"))
    with pytest.raises(BadParams, match="num_attention_heads 2 cannot be divided among 3"):
        catalog.find("tasks.training.parallel.strategies", "tensor")._blocks(small_model(), 3)


def refused_by_zero(folder: Path, message: str, **changes: Any) -> None:
    with pytest.raises(BadParams, match=message):
        train(folder, "zero1", **changes)


@with_deepspeed
@pytest.mark.parametrize("optimizer", ["muon", "adafactor", "lion", "adamw_8bit"])
def test_zero_goes_with_adamw_alone(tmp_path: Path, optimizer: str) -> None:
    in_processes(lambda: refused_by_zero(tmp_path, "optimizer adamw only", optimizer=optimizer))


def test_without_deepspeed_zero_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find_spec(name))
    in_processes(lambda: refused_by_zero(tmp_path, "need DeepSpeed: run pip install"))


def test_names_that_are_not_there() -> None:
    with pytest.raises(ValidationError, match="did you mean 'fsdp'"):
        strategies.Launch(strategy="fsdp2")


STAGES: dict[str, dict[str, Any]] = {
    "reward": {"global_batch_size": 8, "micro_batch_size": 3},
    "dpo": {"global_batch_size": 8, "micro_batch_size": 3, "max_new_tokens": 4, "guard": {"max_kl": None}},
    "ppo": {"reward_model_weight": 0.0, "reward_functions": {"tests.training.tiny:num_dots": 1.0}, "max_new_tokens": 5,
            "rollout_size": 8, "num_epochs": 2, "micro_batch_size": 3, "guard": {"max_kl": None}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "stage", "changes"),
    [
        ("ddp", "ppo", {}),
        ("fsdp", "ppo", {"critic": "own"}),
        ("fsdp", "ppo", {"adapter": "lora"}),
        ("tensor", "ppo", {}),
        ("fsdp", "dpo", {}),
        ("tensor", "dpo", {}),
        ("fsdp", "reward", {}),
        ("tensor", "reward", {}),
        zero_param("zero2", "ppo", {}),
        zero_param("zero3", "ppo", {}),
    ],
)
def test_preference_stages(tmp_path: Path, strategy: str, stage: str, changes: dict[str, Any]) -> None:
    def train_stage(checkpoints: str) -> Log:
        module = catalog.find("tasks.training.stages", stage)
        loop = {"steps": 6, "warmup_steps": 0, "precision": "fp32", "log_every": 1, "num_threads": 1, "device": "cpu"}
        if strategy in ZERO:
            warnings.simplefilter("ignore")
        params = module.Params(**loop, **STAGES[stage], **changes, launch={"strategy": strategy}, evaluate_every=3)
        report = module.train(params, tmp_path, tmp_path / checkpoints, Timings(stage, tmp_path / "timings"))
        return list(report.tables["steps"])

    tiny.write_data(tmp_path)
    one = train_stage("one")
    for two in in_processes(lambda: train_stage("two")):
        # Accuracy counts margins above zero, and before the first update margins are rounding errors around zero.
        for name in one[0].keys() - {"step", "accuracy"}:
            relative, absolute = tolerances(stage, name)
            assert column(two, name) == pytest.approx(column(one, name), rel=relative, abs=absolute), name
    models.verify(tmp_path / "models" / stage)


def tolerances(stage: str, name: str) -> tuple[float, float]:
    """The relative and the absolute tolerance of a column; that of losses and norms is relative alone.

    Other columns (margin, kl, policy_loss) are differences of log-probabilities of about 3. Such a difference has the
    absolute rounding error of its terms, even where it is near zero itself. The loss of ppo contains one, so its
    relative error is larger than that of other losses.
    """
    if name == "gradient_norm" or (stage, name) == ("ppo", "loss"):
        return 1e-4, 0.0
    if name in ("loss", "value_loss", "validation_loss"):
        return 1e-5, 0.0
    return 1e-5, 1e-5
