"""The wordings and words of the skills, one YAML file per module of tasks/ingestion/skills/."""

from pathlib import Path
from typing import Any

import yaml


def load_patterns(name: str) -> dict[str, Any]:
    """Return the content of <name>.yaml; lists of wordings are tuples, because they are the keys of a cache."""
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = _as_tuples(yaml.safe_load(text))
    return content


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tuples(part) for key, part in value.items()}
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value
