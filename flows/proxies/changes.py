"""Changes of params.yaml in memory: KEY=VALUE, as a command line states it, and a component that is taken out."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from flows.runtime import params
from tasks import catalog, pipeline_stages
from tasks.errors import BadParams

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """One change: `label` states it in words, `stage` is the section that it is in, `sections` contains it."""

    label: str
    stage: str
    sections: Sections


def read_sections(file: Path = params.FILE) -> dict[str, dict[str, Any]]:
    """The sections of params.yaml as they are written, without defaults. Raises BadParams."""
    params.check_names(file)  # reports what is wrong with the file
    body, _ = pipeline_stages.read_yaml(file)
    return {name: dict(section or {}) for name, section in body.items() if isinstance(section or {}, Mapping)}


def settings(stage: str, sections: Sections, place: str) -> Any:
    """The Params of a stage from its section; `place` names it in errors. Raises BadParams."""
    body = {key: value for key, value in sections.get(stage, {}).items() if key != "stage"}
    return params.section(str(sections.get(stage, {}).get("stage", stage)), body, place)


def of_text(text: str, sections: Sections, stages: Sequence[str]) -> Iterator[Change]:
    """The changes that `text` states: one per value of KEY=V1,V2, or one without (or with) the component KEY.

    Raises BadParams for a key that no stage of `stages` has, and for a value that is not valid.
    """
    key, equals, values = text.partition("=")
    stage, _, name = key.partition(".")
    if stage not in stages or not name:
        names = [one for one in stages if one in sections]
        raise BadParams(
            f"{text}: expected a key of a stage that changes what is trained, such as curation.minhash or "
            f"pretrain.learning_rate=0.001,0.003; {catalog.suggest(stage, names)}"
        )
    if not equals:
        yield _toggled(stage, name, sections)
        return
    for value in _values(text, values):
        changed = copy.deepcopy({name: dict(section) for name, section in sections.items()})
        set_value(changed.setdefault(stage, {}), name, value)
        settings(stage, changed, text)
        shown = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("\n...\n").strip()
        yield Change(f"{key}={shown}", stage, changed)


def setting(text: str, place: str) -> tuple[str, Any]:
    """The key and the value of KEY=VALUE. Raises BadParams."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadParams(f"{place}: expected KEY=VALUE, such as size=small or model.width=256, not {text!r}")
    return key, _yaml(text, value)


def set_value(section: dict[str, Any], key: str, value: Any) -> None:
    """Set one value of a section; `key` has dots between its parts."""
    parent_of(section, key)[key.split(".")[-1]] = value


def parent_of(section: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping of a section that contains `key`, created if there is none."""
    for part in key.split(".")[:-1]:
        child = section.get(part)
        section[part] = child if isinstance(child, dict) else {}
        section = section[part]
    return section


def _values(text: str, values: str) -> list[Any]:
    """The values between the commas; a list or a mapping in brackets is one value."""
    result = _yaml(text, f"[{values}]")
    if not isinstance(result, list) or not result:
        raise BadParams(f"{text}: expected values after `=`, separated by commas")
    return result


def _yaml(text: str, value: str) -> Any:
    try:
        pipeline_stages.check_bounds(value)
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise BadParams(f"{text}: the value is not valid YAML: {' '.join(str(error).split())}") from error


def _toggled(stage: str, key: str, sections: Sections) -> Change:
    """The change that takes a component out, or adds it where params.yaml is without it. Raises BadParams."""
    changed = copy.deepcopy({name: dict(section) for name, section in sections.items()})
    section, full = changed.setdefault(stage, {}), f"{stage}.{key}"
    *path, last = key.split(".")
    parent = _at(settings(stage, sections, full), path, full)
    if isinstance(parent, BaseModel):
        names = list(type(parent).model_fields)
        if last not in names:
            raise BadParams(f"{full}: unknown key; {catalog.suggest(last, names)}")
        is_removed, value = _off_or_on(getattr(parent, last))
        set_value(section, key, value)
    elif isinstance(parent, Mapping):
        if last not in parent:
            raise BadParams(f"{full}: params.yaml has no such entry; {catalog.suggest(last, list(map(str, parent)))}")
        is_removed = True
        body = parent_of(section, key)
        body.update({str(name): _plain(value) for name, value in parent.items() if name not in body})
        del body[last]
    elif isinstance(parent, list | tuple):
        is_removed = last in parent
        names = [one for one in parent if one != last] if is_removed else [*parent, last]
        set_value(section, ".".join(path), names)
    else:
        raise BadParams(f"{full}: {'.'.join(path)} has no entries")
    try:
        settings(stage, changed, full)
    except BadParams as error:
        raise BadParams(
            f"{full} is no component that can be taken out ({error}). State values instead: {full}=VALUE,VALUE"
        ) from None
    return Change(f"{'without' if is_removed else 'with'} {full}", stage, changed)


def _off_or_on(value: Any) -> tuple[bool, Any]:
    """Whether a component is on, and its value after the change: true and false, or settings and null."""
    if isinstance(value, bool):
        return value, not value
    return (True, None) if value is not None else (False, {})


def _at(value: Any, path: Sequence[str], key: str) -> Any:
    for part in path:
        if isinstance(value, BaseModel) and part in type(value).model_fields:
            value = getattr(value, part)
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            names = list(type(value).model_fields) if isinstance(value, BaseModel) else list(map(str, value or ()))
            raise BadParams(f"{key}: there is no {part!r}; {catalog.suggest(part, names)}")
    return value


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
