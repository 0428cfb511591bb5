"""params.yaml -> the typed Params of a stage. A mistake is answered with file, line, key and what was expected."""

import importlib
import importlib.util
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flows.runtime import renamed_keys
from tasks import catalog
from tasks.errors import BadParams

FILE = Path("params.yaml")
TRAINING = "tasks.training.stages"
OPTIONAL = {
    "classifier": "tasks.curation.classifier.training"
}  # stages that are in the journey once dvc.yaml has their block

Location = tuple[str | int, ...]


def stages() -> list[str]:
    """Every stage there is code for: the packages of tasks/, the files of tasks/training/stages/, what is optional."""
    packages = [name for name in catalog.names("tasks") if _is_package(name) and name != "training"]
    return sorted([*packages, *catalog.names(TRAINING), *OPTIONAL])


def is_training(stage: str) -> bool:
    """Whether `stage` is a file of tasks/training/stages/."""
    return stage in catalog.names(TRAINING)


def load(stage: str, file: Path = FILE) -> BaseModel:
    """The Params of `stage`. Raises BadParams."""
    return _validate(stage, *_parse(file), file)


def section(stage: str, body: Mapping[str, Any], place: str) -> BaseModel:
    """The Params of `stage` from a section that stands in no file but in `place`. Raises BadParams."""
    root = yaml.compose(yaml.safe_dump({stage: dict(body)}), Loader=yaml.SafeLoader)
    assert root is not None
    return _validate(stage, {stage: body}, root, Path(place))


def load_all(names: Iterable[str], file: Path = FILE) -> dict[str, BaseModel]:
    """The Params of the stages `names`, all checked before any of them runs. Raises BadParams."""
    body, root = _parse(file)
    return {stage: _validate(stage, body, root, file) for stage in names}


def check_names(file: Path = FILE) -> None:
    """Raise BadParams where a top-level key of `file` is no stage. Imports no stage."""
    _parse(file)


def flatten(params: BaseModel) -> dict[str, Any]:
    """{"a.b": value} of nested Params, for those who want a flat list."""
    return dict(_flatten(params.model_dump(mode="json"), ""))


def _flatten(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flatten(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _is_package(name: str) -> bool:
    spec = importlib.util.find_spec(f"tasks.{name}")
    return spec is not None and spec.submodule_search_locations is not None


def _parse(file: Path) -> tuple[dict[str, Any], yaml.Node]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadParams(f"there is no {file} in {Path.cwd()}. Run from the folder of the project.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadParams(f"{file} cannot be read: {error}") from error
    try:
        body, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise BadParams(f"{file} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(body, dict) or root is None:
        raise BadParams(f"{file} must hold one section per stage: {', '.join(stages())}")
    _refuse_duplicates(root, (), file)
    if renames := list(_renames(root, (), file)):
        raise BadParams("\n".join(renames))
    for key in body:
        if key not in stages():
            where = f"{file}, line {_line(root, (key,))}"
            raise BadParams(f"{where}: {key}: no stage has this name; {catalog.suggest(str(key), stages())}")
    return body, root


def _validate(stage: str, body: Mapping[str, Any], root: yaml.Node, file: Path) -> BaseModel:
    if stage not in stages():
        raise BadParams(f"no stage {stage!r}; {catalog.suggest(stage, stages())}")
    if stage not in body:
        raise BadParams(f"{file} has no section {stage!r}; `{stage}: {{}}` takes every default")
    model = _model(stage)
    try:
        return model.model_validate({} if body[stage] is None else body[stage])
    except ValidationError as error:
        lines = [_describe(e, location, model, stage, root, file) for location, e in _leaves(error, ())]
        raise BadParams("\n".join(dict.fromkeys(lines))) from error


def _model(stage: str) -> type[BaseModel]:
    module = f"{TRAINING}.{stage}" if is_training(stage) else OPTIONAL.get(stage, f"tasks.{stage}.tasks")
    params: type[BaseModel] = importlib.import_module(module).Params
    return params


def _leaves(error: ValidationError, prefix: Location) -> Iterable[tuple[Location, Any]]:
    """The single mistakes of `error`, also those of a ValidationError that a validator raised inside another."""
    for mistake in error.errors():
        inner = mistake.get("ctx", {}).get("error")
        location = (*prefix, *mistake["loc"])
        if isinstance(inner, ValidationError):
            yield from _leaves(inner, location)
        else:
            yield location, mistake


def _describe(mistake: Any, location: Location, model: type[BaseModel], stage: str, root: yaml.Node, file: Path) -> str:
    where = f"{file}, line {_line(root, (stage, *location))}: {_dotted((stage, *location))}"
    if mistake["type"] == "extra_forbidden":
        known = _fields(model, location[:-1])
        return f"{where}: unknown key; " + (catalog.suggest(str(location[-1]), known) if known else "remove it")
    if mistake["type"] == "missing":
        return f"{where}: is missing and has no default"
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    received = "" if isinstance(mistake["input"], Mapping) else f", not {mistake['input']!r}"
    return f"{where}: {message}{received}"


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the model at `location` takes; empty where the way there cannot be followed."""
    here: list[Any] = [model]
    for part in location:
        below: list[Any] = []
        for kind in here:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                below += _alternatives(kind.model_fields[str(part)].annotation) if part in kind.model_fields else []
            else:
                below += [choice for argument in typing.get_args(kind)[-1:] for choice in _alternatives(argument)]
        here = below
    models = [kind for kind in here if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sorted({name for kind in models for name in kind.model_fields})


def _alternatives(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for argument in typing.get_args(annotation) for choice in _alternatives(argument)]
    return [annotation]


def _line(node: yaml.Node, location: Location) -> int:
    """The line of the key at `location`, or of the nearest thing above it that is written down."""
    line = int(node.start_mark.line) + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = [(node.value[part], node.value[part])]
        else:
            found = []
        if found:
            key, node = found[0]
            line = int(key.start_mark.line) + 1
    return line


def _refuse_duplicates(node: yaml.Node, path: Location, file: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise BadParams(f"{file}, line {line}: {_dotted((*path, key.value))} is given twice; keep one")
            seen.add(key.value)
            _refuse_duplicates(value, (*path, key.value), file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_duplicates(value, (*path, index), file)


def _renames(node: yaml.Node, path: tuple[str, ...], file: Path) -> Iterable[str]:
    """Yield one message for each key or value of `node` that has another name now."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _renames(item, path, file)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if name := renamed_keys.new_key(here):
                yield f"{file}, line {key.start_mark.line + 1}: {_dotted(here)} was renamed; write {name}"
            yield from _renames(value, here, file)
    elif name := renamed_keys.new_value(path, str(node.value)):
        where = f"{file}, line {node.start_mark.line + 1}: {_dotted(path)}"
        yield f"{where}: the value {node.value!r} was renamed; write {name!r}"


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
