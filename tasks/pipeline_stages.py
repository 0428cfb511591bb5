"""The stages of the pipeline as dvc.yaml lists them, with the kind of each as params.yaml states it.

Code that shows or compares stages reads this list, so that a second stage of a kind (`mid: {stage: sft, ...}`) appears
everywhere once it has its block in dvc.yaml and its section in params.yaml. Both files are read within bounds: a YAML
file of a few lines can otherwise stand for millions of values.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tasks.errors import BadInput

DVC_FILE, PARAMS_FILE = Path("dvc.yaml"), Path("params.yaml")
TRAINING_COMMAND = "python -m flows.training "
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled parser where PyYAML was built with it
MAX_BYTES = 1 << 20
MAX_DEPTH = 32  # mappings and lists inside one another; params.yaml needs 7
MAX_VALUES = 100_000  # keys and values, with those of an anchor counted at each of its aliases
KINDS_WITHOUT_ANSWERS = frozenset({"pretrain", "reward"})  # their models are not trained to answer a prompt


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One stage of dvc.yaml.

    `kind` is the file of tasks/training/stages/ for a training stage, and the stage's own name otherwise. `depth` is
    the number of stages on the longest chain of dependencies that ends in this stage; 0 for the first stage.
    """

    name: str
    kind: str
    is_training: bool
    depth: int

    @property
    def answers_prompts(self) -> bool:
        """Whether this stage trains a model that answers prompts, such as sft, ppo and dpo."""
        return self.is_training and self.kind not in KINDS_WITHOUT_ANSWERS


def read_stages(dvc_file: Path = DVC_FILE, params_file: Path = PARAMS_FILE) -> list[PipelineStage]:
    """Return the stages in the order of `dvc_file`, without DVC or torch. Raises BadInput for an invalid file."""
    blocks = _read_mapping(dvc_file).get("stages")
    if not isinstance(blocks, Mapping) or not all(isinstance(block, Mapping) for block in blocks.values()):
        raise BadInput(f"{dvc_file} is not valid: expected the key `stages` with one block for each stage.")
    sections, depths = _read_mapping(params_file), _depths(blocks)
    return [
        PipelineStage(name, _kind(name, sections), str(block.get("cmd", "")).startswith(TRAINING_COMMAND), depths[name])
        for name, block in blocks.items()
    ]


def _kind(name: str, sections: Mapping[str, Any]) -> str:
    section = sections.get(name)
    return str(section.get("stage", name)) if isinstance(section, Mapping) else name


def _depths(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return stage -> length of the longest chain of stages that it depends on."""
    upstream = {
        name: [other for other, writer in blocks.items() if other != name and _reads_from(block, writer)]
        for name, block in blocks.items()
    }
    depths = dict.fromkeys(blocks, 0)
    for _ in blocks:  # a chain is at most as long as the list, whatever its order; DVC itself refuses cycles
        depths = {name: max((depths[other] + 1 for other in upstream[name]), default=0) for name in blocks}
    return depths


def _reads_from(reader: Mapping[str, Any], writer: Mapping[str, Any]) -> bool:
    """Whether a dep of `reader` is an output of `writer`, lies below one, or contains one."""
    outputs = [path for key in ("outs", "metrics") for path in _paths(writer.get(key))]
    return any(
        dep == out or dep in out.parents or out in dep.parents for dep in _paths(reader.get("deps")) for out in outputs
    )


def _paths(entries: Sequence[Any] | None) -> list[PurePosixPath]:
    """The paths of a list of dvc.yaml, where an entry is either a path or a mapping from a path to its options."""
    return [PurePosixPath(next(iter(entry)) if isinstance(entry, Mapping) else entry) for entry in entries or ()]


def _read_mapping(file: Path) -> Mapping[str, Any]:
    try:
        body, _ = read_yaml(file)
    except FileNotFoundError:
        raise BadInput(f"there is no {file} in {Path.cwd()}. Run the command in the folder of the project.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, Mapping):
        raise BadInput(f"{file} is not valid: expected a mapping, received {type(body).__name__}.")
    return body


def read_yaml(file: Path) -> tuple[Any, yaml.Node | None]:
    """Return the content of `file`, and its nodes, which know their lines.

    Raises OSError, UnicodeDecodeError, and yaml.YAMLError for text that is not YAML or exceeds a bound.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise yaml.YAMLError(f"the file has {size:,} bytes, and at most {MAX_BYTES:,} are read")
    body, root = _parse_yaml(file.read_text(encoding="utf-8-sig"))
    return copy.deepcopy(body), root


@lru_cache(maxsize=8)
def _parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Parse a text once: a start of the pipeline reads params.yaml fifty times, and each parse takes a tenth second."""
    check_bounds(text)
    try:
        return yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (ValueError, TypeError, RecursionError) as error:  # such as the date 2024-13-45, or a list as a key
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


def check_bounds(text: str) -> None:
    """Raise yaml.YAMLError if `text` is nested too deeply, refers to itself, or stands for too many values.

    Reads the events of the parser, which needs no recursion and does not replace aliases.
    """
    sizes: dict[str, int] = {}  # anchor -> number of its values, with aliases replaced
    open_nodes: list[tuple[str | None, int]] = []  # anchor and number of values before, of each node around this one
    total = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise _error(event, f"the alias *{event.anchor} is inside its own anchor")
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, total - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        if len(open_nodes) > MAX_DEPTH:
            raise _error(event, f"more than {MAX_DEPTH} mappings and lists are inside one another")
        if total > MAX_VALUES:
            raise _error(event, f"there are more than {MAX_VALUES:,} values when aliases are replaced")


def _error(event: yaml.Event, problem: str) -> yaml.YAMLError:
    line = event.start_mark.line + 1 if event.start_mark else 1
    return yaml.YAMLError(f"line {line}: {problem}")
