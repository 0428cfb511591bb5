"""Which kinds of data (documents, conversations, preferences) the sources of params.yaml have, and the stages need."""

from collections.abc import Collection, Mapping
from typing import Any

from tasks import catalog

SOURCES = "tasks.ingestion.sources"
KINDS = ("documents", "conversations", "preferences")
PACKAGES = ("ingestion", "curation", "tokenization", "evaluation", "classifier")  # stages that train no model
NEEDED = {  # kind of stage -> the kinds of data of which it needs one
    "pretrain": ("documents",),
    "sft": ("conversations",),
    "reward": ("preferences",),
    "dpo": ("preferences",),
    "ppo": ("conversations", "preferences"),
}


def has_data(kind: str, kinds: Collection[str]) -> bool:
    """Whether a stage of the kind `kind` has something to train on, if the sources have the `kinds` of data."""
    return bool(set(NEEDED.get(kind, KINDS)) & set(kinds))


def of_sources(body: Mapping[str, Any]) -> set[str] | None:
    """Return the kinds of data of all sources of params.yaml; None if it has no valid source."""
    providers = sources(body)
    return None if providers is None else {kind for kinds in providers.values() for kind in kinds}


def sources(body: Mapping[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """Return name -> kinds of data of each source of params.yaml; None if it has no valid source.

    A source states its kinds as `KINDS` of its file, or lets the param `kind` choose one; any other may have all.
    """
    result: dict[str, tuple[str, ...]] = {}
    for name, section in mapping(body, "ingestion", "sources").items():
        plug_in = str(mapping(section).get("source", name))
        if plug_in not in catalog.names(SOURCES):
            return None
        result[str(name)] = _kinds(catalog.find(SOURCES, plug_in), mapping(section))
    return result or None


def _kinds(module: Any, section: Mapping[str, Any]) -> tuple[str, ...]:
    kinds = tuple(getattr(module, "KINDS", KINDS))
    if (field := module.Params.model_fields.get("kind")) is not None:
        kind = section.get("kind", field.default)
        return (str(kind),) if kind in KINDS else KINDS
    return tuple(kind for kind in kinds if section.get(f"num_{kind}") != 0)


def mapping(value: Any, *keys: str) -> Mapping[str, Any]:
    """Return the mapping at `keys` below `value`; empty if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
