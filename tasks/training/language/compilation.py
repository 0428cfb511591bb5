"""torch.compile of a model's blocks, which are alike and so are compiled once; what was compiled is kept for next time.

Compiling takes a minute or so and changes the order of sums: off unless a run is long.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from tasks.errors import BadParams

Mode = Literal["off", "on", "auto"]

CACHE = Path(".run/compiled")
PLACE = "TORCHINDUCTOR_CACHE_DIR"
BACKEND = "inductor"
PAYS_AFTER = {"cuda": 500, "cpu": 5000}  # steps


@contextmanager
def compiled(model: nn.Module, mode: Mode, steps: int, device: torch.device) -> Iterator[None]:
    """Within the block the blocks of `model` run compiled; "auto": where there is a compiler and `steps` pay for it.

    Raises BadParams where mode is "on" and there is no compiler.
    """
    if not _wanted(mode, steps, device):
        yield
        return
    _keep_what_is_compiled()
    blocks = blocks_of(model)
    try:
        for block in blocks:
            block.compile(backend=BACKEND)
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a Hugging Face Transformer."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _keep_what_is_compiled() -> None:
    """In CACHE, unless the user has named another place; torch writes its own default there when it is imported."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(PLACE) in (None, default_cache_dir()):
        os.environ[PLACE] = str(CACHE.absolute())


def _wanted(mode: Mode, steps: int, device: torch.device) -> bool:
    if mode == "off" or (mode == "auto" and steps < PAYS_AFTER[device.type]):
        return False
    found = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    if not found and mode == "on":
        raise BadParams("compile: on needs a C++ compiler, and neither g++ nor clang++ is here; install one or say off")
    return found
