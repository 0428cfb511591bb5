"""Keys and values of params.yaml that were renamed: an old one produces an error that names the new one.

A path is dotted and starts with the name of the stage; `*` stands for any single part of it.
"""

from collections.abc import Iterator, Sequence

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
