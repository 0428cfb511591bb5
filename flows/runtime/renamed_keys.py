"""Keys and values of params.yaml that were renamed: an old one produces an error that names the new one.

A path is dotted and starts with the name of the stage; `*` stands for any single part of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

RENAMED_KEYS: dict[str, str] = {
    "dpo.tasks": "dpo.prompt_sources",
    "ppo.tasks": "ppo.prompt_sources",
    "dpo.held_out": "dpo.validation",
    "ppo.held_out": "ppo.validation",
    "*.optimiser": "*.optimizer",
    "pretrain.exact": "pretrain.deterministic",
    "sft.exact": "sft.deterministic",
    "reward.exact": "reward.deterministic",
    "ppo.exact": "ppo.deterministic",
    "dpo.exact": "dpo.deterministic",
    "reward.centring": "reward.centering",
    "evaluation.metrics.over_optimisation": "evaluation.metrics.over_optimization",
    "*.cutting": "*.span_corruption",
    "*.model.balance_coef": "*.model.load_balancing_coef",
    "evaluation.metrics.*.cutting": "evaluation.metrics.*.span_corruption",
    "evaluation.metrics.samples.also": "evaluation.metrics.samples.extra_models",
    "evaluation.gates.refuse_over_optimisation": "evaluation.gates.refuse_over_optimization",
}

# (key, old value) -> new value
RENAMED_VALUES: dict[tuple[str, str], str] = {}


def new_key(path: Sequence[str]) -> str | None:
    """Return the present name of the key at `path`; None if the key was not renamed."""
    for old, new in RENAMED_KEYS.items():
        if (wildcards := _match(old, path)) is not None:
            replacements = iter(wildcards)
            return ".".join(next(replacements) if part == "*" else part for part in new.split("."))
    return None


def new_value(path: Sequence[str], value: str) -> str | None:
    """Return the present name of `value` of the key at `path`; None if the value was not renamed."""
    candidates: Iterator[str] = (
        new
        for (key, old), new in RENAMED_VALUES.items()
        if old == value and _match(key, path) is not None
    )  # fmt: skip
    return next(candidates, None)


def _match(pattern: str, path: Sequence[str]) -> list[str] | None:
    """Return the parts of `path` that the wildcards of `pattern` stand for; None if the pattern does not match."""
    parts = pattern.split(".")
    if len(parts) != len(path) or any(part not in ("*", name) for part, name in zip(parts, path, strict=True)):
        return None
    return [name for part, name in zip(parts, path, strict=True) if part == "*"]


def messages(root: yaml.Node, file: Path, kinds: Mapping[str, str]) -> Iterator[str]:
    """Yield one message for each key or value of `file` that has another name now; `kinds`: named stage -> kind."""
    return _messages(root, (), file, kinds)


def _messages(node: yaml.Node, path: tuple[str, ...], file: Path, kinds: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _messages(item, path, file, kinds)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            kind = kinds.get(inner[0], inner[0])  # a named stage has the keys of its kind
            if name := new_key((kind, *inner[1:])):
                name = name.replace(kind, inner[0], 1)
                dotted = ".".join(inner)
                yield f"{file}, line {key.start_mark.line + 1}: {dotted} was renamed; write {name}"
            yield from _messages(value, inner, file, kinds)
    elif name := new_value(path, str(node.value)):
        dotted = ".".join(path)
        yield f"{file}, line {node.start_mark.line + 1}: {dotted}: the value {node.value!r} was renamed; write {name!r}"
