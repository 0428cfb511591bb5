"""Apply the filters in order and record the first reason for each document. Each language has its own params.

The contract of a filter is `FilterModule` and `FilterHooks` in tasks/catalog.py.
"""

from collections import Counter
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
"""Language -> filter -> Params of the filter, in the order in which the filters apply."""


class Language(BaseModel, frozen=True, extra="forbid"):
    """The bounds for documents in one language: a profile, and changes to it."""

    profile: str = Field(description="Name of a file in tasks/curation/profiles/ (such as `en`) with published bounds.")
    changes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Filter -> param -> value that replaces the value of the profile."
    )


class Profile(BaseModel):
    """One file of profiles/: the published bounds of one language, its stop words, and phrases by kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_words: tuple[str, ...] = Field((), description="Frequent words; a text with too few of them is not prose.")
    phrases: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Kind of phrase -> phrases; each kind is counted as the signal num_<kind>."
    )
    filters: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Filter -> param -> value, where it differs from the default of the filter."
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound that documents in `language` were compared with. signal: "" if the rule uses more than one signal."""

    reason: str
    language: str
    signal: str
    bound: float | None


PartCounts = Counter[tuple[str, str, str, bool]]
"""(reason, language, part, dropped) -> number of documents."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The results of all filters, each array [documents].

    reasons: "filter.reason", or KEPT; values: the value that decided, NaN if there is none; parts: number of documents
    by rule, language, part of the distribution (`Verdict.parts`), and whether the rule drops them, of those that no
    earlier rule dropped.
    """

    reasons: ObjectArray
    values: Float64Array
    bounds: Sequence[Bound]
    parts: PartCounts


def params_by_language(languages: Mapping[str, Language], filters: Sequence[str]) -> ParamsByLanguage:
    """Return the Params of every filter for every language.

    Raises BadParams for an unknown filter, profile or param, for an invalid value, and for an incomplete filter.
    """
    for language in languages.values():
        for name in language.changes:
            # Changes of a filter that is not in use now are allowed, so that a filter can be switched off by its name
            # alone. Changes of a filter that does not exist are an error.
            _filter(name)
    return {
        code: {name: _params(code, language, name, languages) for name in filters}
        for code, language in languages.items()
    }


@cache
def profile(name: str) -> Profile:
    """Read the profile `name`. Raises BadParams, with the names of the profiles, if there is none of this name."""
    available = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in available:
        raise BadParams(f"no profile {name!r}; {catalog.suggest(name, available)}")
    return Profile(**yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")))


def decide(
    signals: Signals, filter_params: ParamsByLanguage, texts: pa.Array, metadata: pa.Array | None = None
) -> Decision:
    """Apply the filters of its language to every document; see `filter_languages`.

    texts: Arrow strings [documents]; metadata: JSON objects as Arrow strings [documents], as in the document table.
    Without metadata, rules on the origin of a document do not apply.
    """
    reasons, values = np.full(len(signals), KEPT, dtype=object), np.full(len(signals), np.nan)
    kept, languages = np.ones(len(signals), np.bool_), filter_languages(signals.language, filter_params)
    bounds: list[Bound] = []
    parts: PartCounts = Counter()
    for language, filters in filter_params.items():
        in_language = (languages == language) | _is_mixed(signals, language, filter_params)
        for name, params in filters.items():
            # A filter that reads texts gets only the documents that no earlier filter dropped, because reading is slow.
            # A filter that needs signals alone gets all rows, because array expressions are faster than selecting rows.
            rows = np.flatnonzero(in_language & kept) if needs_texts(name, params) else None
            for reason, verdict in _verdicts_on_rows(name, params, rows, signals, texts, metadata):
                judged = in_language & kept if rows is None else kept[rows]
                is_new = verdict.dropped & judged
                new_rows = np.flatnonzero(is_new) if rows is None else rows[is_new]
                reasons[new_rows], values[new_rows], kept[new_rows] = reason, verdict.values[is_new], False
                bounds.append(Bound(reason, language, verdict.signal, verdict.bound))
                if verdict.parts is not None:
                    pairs = zip(verdict.parts[judged].tolist(), is_new[judged].tolist(), strict=True)
                    parts.update((reason, language, part, dropped) for part, dropped in pairs)
    return Decision(reasons, values, bounds, parts)


def _is_mixed(signals: Signals, language: str, filter_params: ParamsByLanguage) -> BoolArray:
    """Return which texts in two languages are also judged by the filters of `language`, their second language.

    The param `mixed` of the filter `language` decides, of the filters for the main language of a text.
    """
    mixed = np.zeros(len(signals), np.bool_)
    for main, second in (("en", "zh"), ("zh", "en")):
        if second == language and getattr(filter_params.get(main, {}).get("language"), "mixed", "main") == "both":
            mixed |= (signals.language == main) & (signals.second_language_share > 0)
    return mixed


def _verdicts_on_rows(
    name: str, params: BaseModel, rows: Int64Array | None, signals: Signals, texts: pa.Array, metadata: pa.Array | None
) -> list[tuple[str, Verdict]]:
    """Return the verdicts on `rows`, or on all documents if `rows` is None."""
    if rows is None:
        return verdicts(name, params, signals, texts, metadata)
    indices = pa.array(rows)
    row_metadata = metadata.take(indices) if metadata is not None else None
    return verdicts(name, params, signals.take(rows), texts.take(indices), row_metadata)


def needs_texts(name: str, params: BaseModel) -> bool:
    """Return whether a filter with these params reads texts or metadata, and not only signals."""
    module = _filter(name)
    if hasattr(module, "needs_texts"):
        return bool(module.needs_texts(params))
    return hasattr(module, "measure_texts") or hasattr(module, "measure_metadata")


def filter_languages(languages: StringArray, filter_params: ParamsByLanguage) -> StringArray:
    """Return the language whose filters apply to each document: its own, or the first one if its own has no params."""
    return np.where(np.isin(languages, list(filter_params)), languages, next(iter(filter_params)))


def verdicts(
    name: str, params: BaseModel, signals: Signals, texts: pa.Array, metadata: pa.Array | None = None
) -> list[tuple[str, Verdict]]:
    """Return ("filter.reason", verdict) for every rule of one filter, in order."""
    module = _filter(name)
    measurements: dict[str, Any] = {}
    if hasattr(module, "measure_texts") and needs_texts(name, params):
        measurements["text_measurements"] = module.measure_texts(texts, params)
    if hasattr(module, "measure_metadata") and metadata is not None:
        measurements["metadata_measurements"] = module.measure_metadata(metadata, params)
    reasons = module.drop_reasons(signals, params, **measurements)
    return [(f"{name}.{reason}", _as_verdict(result)) for reason, result in reasons.items()]


def edit_texts(texts: pa.Array, languages: StringArray, filter_params: ParamsByLanguage) -> pa.Array:
    """Return the texts after the `edit_text` of each filter that has one; the same array if no filter has one.

    languages: of `filter_languages`, [texts].
    """
    editors = {
        language: [
            (module.edit_text, params)
            for name, params in filters.items()
            if hasattr(module := _filter(name), "edit_text")
        ]
        for language, filters in filter_params.items()
    }
    if not any(editors.values()):
        return texts
    edited = texts.to_pylist()
    for row, language in enumerate(languages.tolist()):
        for edit_text, params in editors[language]:
            edited[row] = edit_text(edited[row], params)
    return pa.array(edited, texts.type)


def _filter(name: str) -> ModuleType:
    return catalog.find(FILTERS, name)


def _as_verdict(result: Verdict | BoolArray) -> Verdict:
    return result if isinstance(result, Verdict) else Verdict(result, np.full(len(result), np.nan))


def _params(code: str, language: Language, name: str, languages: Mapping[str, Language]) -> BaseModel:
    """Return the Params of one filter: its defaults, replaced by the profile's values, replaced by the changes."""
    module = _filter(name)
    derived = module.default_params(sorted(languages)) if hasattr(module, "default_params") else {}
    values = {**derived, **profile(language.profile).filters.get(name, {}), **language.changes.get(name, {})}
    model: type[BaseModel] = module.Params
    for key in values:
        if key not in model.model_fields:
            raise BadParams(
                f"languages.{code}: the filter {name} has no {key!r}; {catalog.suggest(str(key), model.model_fields)}"
            )
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadParams(
            f"languages.{code}: {name}.{first['loc'][0]}: {first['msg']}, but received {first['input']!r}"
        ) from error
