"""Ask every filter in order; the first reason wins. Each language is judged by its own profile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks import catalog
from tasks.curation.arrays import BoolArray, Float64Array, Int64Array, ObjectArray, StringArray
from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Verdict
from tasks.errors import BadParams

FILTERS = "tasks.curation.filters"
PROFILES = Path(__file__).parent / "profiles"
KEPT = ""

ParamsByLanguage = Mapping[str, Mapping[str, BaseModel]]
"""language -> filter -> its Params, in the order in which they are asked."""


class Language(BaseModel, frozen=True, extra="forbid"):
    """How one language is judged: a profile by name, and what to change in it, filter by filter."""

    profile: str
    changes: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Profile(BaseModel):
    """One file of profiles/: published bounds of a language, its stop words, and phrases by kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_words: tuple[str, ...] = ()
    phrases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    filters: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound that documents of a language were held against."""

    reason: str
    language: str
    signal: str
    bound: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """reasons: "filter.reason", KEPT where kept; values: what decided, NaN where nothing did; each [documents]."""

    reasons: ObjectArray
    values: Float64Array
    bounds: Sequence[Bound]


def params_by_language(languages: Mapping[str, Language], filters: Sequence[str]) -> ParamsByLanguage:
    """The Params of every filter for every language. Raises BadParams for a name or a value that there is not."""
    for language in languages.values():
        for name in language.changes:
            _filter(name)  # changes of a filter that is not asked now may stay; of one that is none, not
    return {
        code: {name: _params(code, language, name, languages) for name in filters}
        for code, language in languages.items()
    }


@cache
def profile(name: str) -> Profile:
    """The profile `name`. Raises BadParams, naming the right names, when there is none."""
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in known:
        raise BadParams(f"no profile {name!r}; {catalog.suggest(name, known)}")
    return Profile(**yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")))


def decide(
    signals: Signals, filter_params: ParamsByLanguage, texts: pa.Array, metadata: pa.Array | None = None
) -> Decision:
    """Judge every document by the filters of its language; of a language without a profile, by those of the first.

    metadata: JSON objects, as the document table has them; without them nothing is known of where a text comes from.
    """
    reasons, values = np.full(len(signals), KEPT, dtype=object), np.full(len(signals), np.nan)
    left, owners = np.ones(len(signals), np.bool_), filter_languages(signals, filter_params)
    bounds: list[Bound] = []
    for language, filters in filter_params.items():
        mine = owners == language
        for name, params in filters.items():
            rows = np.flatnonzero(mine & left) if needs_texts(name, params) else None
            for reason, verdict in _asked(name, params, rows, signals, texts, metadata):
                new = verdict.dropped & (mine & left if rows is None else left[rows])
                places = np.flatnonzero(new) if rows is None else rows[new]
                reasons[places], values[places], left[places] = reason, verdict.values[new], False
                bounds.append(Bound(reason, language, verdict.signal, verdict.bound))
    return Decision(reasons, values, bounds)


def _asked(
    name: str, params: BaseModel, rows: Int64Array | None, signals: Signals, texts: pa.Array, metadata: pa.Array | None
) -> list[tuple[str, Verdict]]:
    """The verdicts on `rows`; on all documents where a filter looks at nothing but signals, which costs less."""
    if rows is None:
        return verdicts(name, params, signals, texts, metadata)
    places = pa.array(rows)
    about = metadata.take(places) if metadata is not None else None
    return verdicts(name, params, signals.take(rows), texts.take(places), about)


def needs_texts(name: str, params: BaseModel) -> bool:
    """Whether a filter needs more than signals. One that does so with some params only has `needs_texts(params)`."""
    module = _filter(name)
    if hasattr(module, "needs_texts"):
        return bool(module.needs_texts(params))
    return hasattr(module, "look") or hasattr(module, "look_at_origin")


def filter_languages(signals: Signals, filter_params: ParamsByLanguage) -> StringArray:
    """The language whose filters judge each document."""
    return np.where(np.isin(signals.language, list(filter_params)), signals.language, next(iter(filter_params)))


def verdicts(
    name: str, params: BaseModel, signals: Signals, texts: pa.Array, metadata: pa.Array | None = None
) -> list[tuple[str, Verdict]]:
    """Every reason of one filter, in order, with what it says of the documents.

    A filter that needs more than signals has `look(texts, params)`, one that asks where a text comes from
    `look_at_origin(metadata, params)`; its `drop_reasons` gets as well what they find.
    """
    module, needed = _filter(name), needs_texts(name, params)
    looked = [module.look(texts, params)] if needed and hasattr(module, "look") else []
    if metadata is not None and hasattr(module, "look_at_origin"):
        looked.append(module.look_at_origin(metadata, params))
    reasons = module.drop_reasons(signals, params, *looked)
    return [(f"{name}.{reason}", _verdict(said)) for reason, said in reasons.items()]


def edit(texts: pa.Array, owners: StringArray, filter_params: ParamsByLanguage) -> pa.Array:
    """The texts as filters that have `edit(text, params)` leave them; the same array where none has."""
    editors = {
        language: [
            (module.edit, params) for name, params in filters.items() if hasattr(module := _filter(name), "edit")
        ]
        for language, filters in filter_params.items()
    }
    if not any(editors.values()):
        return texts
    edited = texts.to_pylist()
    for row, owner in enumerate(owners.tolist()):
        for change, params in editors[owner]:
            edited[row] = change(edited[row], params)
    return pa.array(edited, texts.type)


def _filter(name: str) -> ModuleType:
    return catalog.find(FILTERS, name)


def _verdict(said: Verdict | BoolArray) -> Verdict:
    return said if isinstance(said, Verdict) else Verdict(said, np.full(len(said), np.nan))


def _params(code: str, language: Language, name: str, languages: Mapping[str, Language]) -> BaseModel:
    dials = {**profile(language.profile).filters.get(name, {}), **language.changes.get(name, {})}
    model: type[BaseModel] = catalog.find(FILTERS, name).Params
    if name == "language":
        dials.setdefault("allowed", sorted(languages))
    for key in dials:
        if key not in model.model_fields:
            raise BadParams(f"languages.{code}: {name} has no {key!r}; {catalog.suggest(str(key), model.model_fields)}")
    try:
        return model(**dials)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadParams(
            f"languages.{code}: {name}.{first['loc'][0]}: {first['msg']}, not {first['input']!r}"
        ) from error
