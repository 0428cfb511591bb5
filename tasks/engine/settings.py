"""Which engine runs the stages that need one, and how much memory they may use: top-level keys of params.yaml.

The flows set the variables ATHANOR_ENGINE and ATHANOR_MEMORY from params.yaml, unless the user has set them. Neither
changes a result, so that neither is a param of a stage.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from tasks.engine.engine import Engine
from tasks.engine.local_engine import LocalEngine
from tasks.errors import BadParams

ENGINE, MEMORY = "ATHANOR_ENGINE", "ATHANOR_MEMORY"
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
MIN_MEMORY = 256 * 10**6


class Settings(BaseModel, frozen=True, extra="forbid"):
    """The top-level keys of params.yaml that are no stage."""

    engine: Literal["local", "ray"] = Field(
        "local", description="Where large stages run: processes of this machine, or the Ray cluster of RAY_ADDRESS."
    )
    memory: str = Field(
        "4 GB", description="Memory that curation may use for duplicates; what does not fit is written to disk."
    )

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, value: str) -> str:
        num_bytes(value)
        return value


def num_bytes(size: str) -> int:
    """Return the bytes of a size such as "4 GB". Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", size, re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f"expected a size such as 4 GB, 500 MB or 1.5 TiB, not {size!r}")
    result = int(float(match[1]) * UNITS[match[2].upper()])
    if result < MIN_MEMORY:
        raise ValueError(f"expected at least {MIN_MEMORY // 10**6} MB, not {size!r}")
    return result


def current() -> Settings:
    """Return the settings of the environment, or the defaults. Raises BadParams."""
    names = {"engine": ENGINE, "memory": MEMORY}
    values = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = names[str(first["loc"][0])]
        raise BadParams(f"the variable {name}: {first['msg'].removeprefix('Value error, ')}") from error


def publish(settings: Mapping[str, Any]) -> None:
    """Set the variables of the environment to these top-level keys of params.yaml; what the user has set stays."""
    for key, name in (("engine", ENGINE), ("memory", MEMORY)):
        if key in settings:
            os.environ.setdefault(name, str(settings[key]))


def memory_bytes() -> int:
    """Return the memory that a stage may use, in bytes."""
    return num_bytes(current().memory)


def make_engine(folder: Path, workers: int) -> Engine:
    """Return the engine of the settings, whose stages are folders below `folder`. workers: of the local one."""
    if current().engine == "ray":
        from tasks.engine import ray_engine

        return ray_engine.RayEngine(folder, ray_engine.address_of_environment())
    return LocalEngine(folder, workers)
