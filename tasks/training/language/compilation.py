"""torch.compile for the blocks of a model. Compiled code is cached in the project for later runs.

Compilation takes 10 to 30 seconds, or 4 where the cache has the code, and changes the order of floating-point sums, so
results differ in the last bits.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import nn

from tasks.errors import BadParams


def _on_or_off(value: Any) -> Any:
    """YAML reads `off` and `on` without quotes as false and true."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Mode = Annotated[Literal["off", "on", "auto"], BeforeValidator(_on_or_off)]

CACHE = Path(".run/compiled")
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
BACKEND = "inductor"
MIN_STEPS = {"cuda": 500, "cpu": 300}  # "auto": shorter runs take less time than the compilation saves


@contextmanager
def compiled(model: nn.Module, mode: Mode, steps: int, device: torch.device) -> Iterator[None]:
    """Run the blocks of `model` compiled within the block of `with`.

    "auto" compiles if there is a C++ compiler and the run has at least MIN_STEPS; code that torch cannot compile runs
    as it is, and so does an evaluation, whose few batches take less time than the compilation of a pass without
    gradients. Raises BadParams if mode is "on" and there is no compiler.
    """
    if not should_compile(mode, steps, device):
        yield
        return
    os.environ[CACHE_VARIABLE] = str(cache_folder())
    blocks = blocks_of(model)
    # Otherwise the compiler would remember the shapes of an earlier stage of this process and make other code for this
    # one than in a process of its own, in which `dvc repro` or a resumed run trains it.
    torch._dynamo.reset()
    try:
        # Blocks are compiled, not the model: they have the same code and shapes, so the first one is compiled and the
        # others reuse it ("regional compilation"). `module.compile()`, unlike `torch.compile(module)`, keeps the module
        # itself, so the names in state_dict do not get the prefix "_orig_mod".
        for block in blocks:
            block.compile(backend=BACKEND)
        if mode == "on":
            yield
        else:
            for block in blocks:
                block._compiled_call_impl = _in_training(block)
            with _tolerating_failures():
                yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way to undo `module.compile()`


def _in_training(block: nn.Module) -> Callable[..., Any]:
    """The compiled block where gradients are computed, and the block as it is elsewhere."""
    compiled_block: Any = block._compiled_call_impl

    def call(*arguments: Any, **named: Any) -> Any:
        return (compiled_block if torch.is_grad_enabled() else block._call_impl)(*arguments, **named)

    return call


@contextmanager
def _tolerating_failures() -> Iterator[None]:
    """Run code that torch cannot compile as it is, and print one sentence instead of torch's tracebacks."""
    causes: list[str] = []

    def shorten(record: logging.LogRecord) -> bool:
        if record.exc_info and not causes:
            causes.append(str(record.exc_info[1]).strip().splitlines()[-1])
            print(
                f"compile: torch cannot compile a part of this model, which runs as it is ({causes[0]})",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        return not record.exc_info

    log = logging.getLogger("torch._dynamo.convert_frame")
    log.addFilter(shorten)
    try:
        with torch._dynamo.config.patch(suppress_errors=True):
            yield
    finally:
        log.removeFilter(shorten)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model of transformers, all of which derive from GradientCheckpointingLayer."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def cache_folder() -> Path:
    """Where compiled code is kept: CACHE, unless the user has set a folder."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch sets the variable to its default, under /tmp, when it is imported.
    chosen = os.environ.get(CACHE_VARIABLE, default_cache_dir())
    return CACHE.absolute() if chosen == default_cache_dir() else Path(chosen)


def find_instructions(cache: Path) -> None:
    """Let torch find out which vector instructions its compiler may use on this CPU, and keep that in `cache`.

    It compiles and loads a dozen small programs, one after another.
    """
    os.environ[CACHE_VARIABLE] = str(cache)
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    valid_vec_isa_list()


def should_compile(mode: Mode, steps: int, device: torch.device) -> bool:
    """Whether `compiled` compiles. Raises BadParams as it does."""
    if mode == "off" or (mode == "auto" and steps < MIN_STEPS[device.type]):
        return False
    has_compiler = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    if not has_compiler and mode == "on":
        raise BadParams(
            "compile: on needs a C++ compiler, but neither g++ nor clang++ was found. Install one, or set compile: off."
        )
    return has_compiler
