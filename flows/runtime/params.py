"""params.yaml -> the typed Params of a stage. A mistake is reported with file, line, key and what was expected."""

import importlib
import importlib.util
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flows.runtime import checks, renamed_keys
from flows.runtime.data_kinds import mapping as _mapping
from tasks import addresses, catalog, pipeline_stages
from tasks.engine import settings as engine_settings
from tasks.errors import BadInput, BadParams

FILE = Path("params.yaml")
TRAINING = "tasks.training.stages"
# Sections that need no block in dvc.yaml, and the module of their Params: an optional stage, settings of a command.
OPTIONAL = {"classifier": "tasks.curation.classifier.training", "promotion": "tasks.promotion"}
NO_FLOWS = {"promotion"}  # of these, a section that is absent takes every default

# What pydantic calls the types of values, as patterns, and what YAML calls them.
YAML_NAMES = {
    r"a valid dictionary( or instance of \w+)?": "a mapping (`key: value`)",
    r"a valid (tuple|list)": "a list (`[a, b]`)",
    r"a valid string": "a text",
}

Location = tuple[str | int, ...]
NO_STAGES = {  # packages of tasks/ that are not a stage
    "causal", "comparison", "deliveries", "engine", "export", "feedback", "ladder", "pages", "precompilation",
    "promotion", "rounds", "search", "serving", "synthesis", "training",
}  # fmt: skip


def stages(file: Path = FILE) -> list[str]:
    """Return every stage that has code: packages of tasks/, files of tasks/training/stages/, and optional stages."""
    packages = [name for name in catalog.names("tasks") if _is_package(name) and name not in NO_STAGES]
    return sorted({*packages, *catalog.names(TRAINING), *OPTIONAL, *named_stages(file)})


def named_stages(file: Path = FILE) -> dict[str, str]:
    """Return name -> kind of the sections with `stage: <kind>`: further training stages with a name of their own."""
    try:
        body, _ = pipeline_stages.read_yaml(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # `_parse` reports what is wrong with the file
    sections = body.items() if isinstance(body, Mapping) else ()
    return {str(name): str(part["stage"]) for name, part in sections if isinstance(part, Mapping) and "stage" in part}


def is_training(stage: str) -> bool:
    """Whether `stage` is a file of tasks/training/stages/, or a stage of such a kind in params.yaml."""
    return stage in catalog.names(TRAINING) or stage in named_stages()


def check_stage(stage: str, names: Collection[str]) -> None:
    """Raise BadParams if `stage` is not one of `names`."""
    if stage not in names:
        raise BadParams(f"no stage {stage!r}; {catalog.suggest(stage, names)}")


def load(stage: str, file: Path = FILE) -> BaseModel:
    """Return the Params of `stage`. Raises BadParams."""
    return _validate(stage, *_parse(file), file)


def section(stage: str, body: Mapping[str, Any], place: str) -> BaseModel:
    """Return the Params of `stage` from a section that is in no file; `place` names it in errors. Raises BadParams."""
    root = yaml.compose(yaml.safe_dump({stage: dict(body)}), Loader=yaml.SafeLoader)
    assert root is not None
    return _validate(stage, {stage: body}, root, Path(place))


def publish_engine(file: Path = FILE) -> None:
    """Set the variables that choose the engine, from the top-level keys of `file` that are no stage. Raises BadParams.

    They are variables of the environment, because worker processes need them, too.
    """
    _parse(file)
    engine_settings.publish(_engine_keys(pipeline_stages.read_yaml(file)[0]))
    engine_settings.current()


def load_all(names: Iterable[str], file: Path = FILE) -> dict[str, BaseModel]:
    """Return the Params of the stages `names`, all validated before any of them runs. Raises BadParams."""
    body, root = _parse(file)
    loaded, errors = dict[str, BaseModel](), list[str]()
    for stage in names:
        try:
            loaded[stage] = _validate(stage, body, root, file)
        except BadParams as error:
            errors.append(str(error))
    if errors:
        raise BadParams("\n".join(errors))
    return loaded


def check_names(file: Path = FILE) -> None:
    """Raise BadParams for an unknown stage, source, filter, metric, adapter or strategy in `file`.

    Imports none of them, so that the answer comes at once.
    """
    body, root = _parse(file)
    errors = []
    for location, package, name in _catalog_names(body):
        names = catalog.names(package)
        if name not in names:
            kind = catalog.CONTRACTS[package.rsplit(".", 1)[-1]].kind
            errors.append(f"{_where(file, root, location)}: no {kind} {name!r}; {catalog.suggest(name, names)}")
    if errors:
        raise BadParams("\n".join(errors))


def check_blocks(blocks: Collection[str], file: Path = FILE) -> None:
    """Raise BadParams for a section of `file` whose stage has no block among those of dvc.yaml, and so never runs."""
    body, root = _parse(file)
    missing = [name for name in body if name not in (*blocks, *OPTIONAL)]
    if missing:
        raise BadParams("\n".join(f"{_where(file, root, (name,))}: {_missing_block(name, file)}" for name in missing))


def _missing_block(stage: str, file: Path) -> str:
    text = f"the stage never runs, because dvc.yaml has no block {stage!r}; remove the section, or add the block"
    kind = named_stages(file).get(stage)
    if kind is None:
        return f"{text} `{stage}:` as the dvc.yaml of the project has it"
    return (
        f"{text} `{stage}:`: that of {kind!r} with `cmd: python -m flows.training {stage}`, `params: [{stage}]`, the "
        f"model of its `base` in `deps`, and the outputs data/models/{stage}, data/reports/{stage} and "
        f"data/reports/{stage}.json, which `deps` of `evaluation` must list, too (docs/evaluation.md)"
    )


def check_files(stage: str, params: Any, file: Path = FILE) -> None:
    """Raise BadInput for files of `stage` that do not exist, and for what evaluation reads besides the data.

    Without this check, evaluation would stop for them after hours of training.
    """
    locations: list[tuple[Location, str]] = []
    if stage == "ingestion":
        missing = importlib.import_module("tasks.ingestion.tasks").missing_files(params)
        locations = [((stage, "sources", name, "paths"), problem) for name, problem in missing]
    elif stage == "evaluation":
        evaluation = importlib.import_module("tasks.evaluation.tasks")
        _, problems = evaluation.read_benchmarks(params)
        locations = [((stage, "benchmarks", name), problem) for name, problem in problems.items()]
        try:
            evaluation.read_champion.fn(params)
        except BadInput as error:
            locations.append(((stage, "champion_report"), str(error)))
    _, root = _parse(file)
    if locations:
        raise BadInput("\n".join(f"{_where(file, root, location)}: {problem}" for location, problem in locations))


def flatten(params: BaseModel) -> dict[str, Any]:
    """Return {"a.b": value} for each value of nested Params."""
    return dict(_flatten(params.model_dump(mode="json"), ""))


def model(stage: str) -> type[BaseModel]:
    """Return the class of the Params of `stage`."""
    if is_training(stage):
        module = catalog.find(TRAINING, named_stages().get(stage, stage))
    else:
        module = importlib.import_module(OPTIONAL.get(stage, f"tasks.{stage}.tasks"))
    params: type[BaseModel] = module.Params
    return params


def alternatives(annotation: Any) -> list[Any]:
    """Return the types of an annotation: [int, None] for `int | None`, without `Annotated`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for argument in typing.get_args(annotation) for choice in alternatives(argument)]
    return [annotation]


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
    """Return the content of `file` and its YAML nodes, which know their lines. Raises BadParams."""
    try:
        body, root = pipeline_stages.read_yaml(file)
    except FileNotFoundError:
        raise BadParams(f"there is no {file} in {Path.cwd()}. Run the command in the folder of the project.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadParams(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise BadParams(f"{file} is not valid YAML: {_yaml_problem(error)}") from error
    if not isinstance(body, dict) or root is None:
        raise BadParams(f"{file} must contain one section per stage: {', '.join(stages(file))}")
    _refuse_duplicates(root, (), file)
    _refuse_secrets(root, (), file)
    if renames := list(renamed_keys.messages(root, file, named_stages(file))):
        raise BadParams("\n".join(renames))
    names, top_level = stages(file), _engine_keys(body)
    _check_engine_keys(top_level, root, file)
    body = {key: value for key, value in body.items() if key not in top_level}
    for key in body:
        if key not in names:
            where = _where(file, root, (key,))
            known = [*names, *engine_settings.Settings.model_fields]
            raise BadParams(f"{where}: no stage has this name; {catalog.suggest(str(key), known)}")
    if lines := [f"{_where(file, root, (name,))}: {text}" for name in named_stages(file) for text in checks.name(name)]:
        raise BadParams("\n".join(lines))
    return body, root


def _engine_keys(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: body[key] for key in engine_settings.Settings.model_fields if key in body}


def _check_engine_keys(top_level: Mapping[str, Any], root: yaml.Node, file: Path) -> None:
    try:
        engine_settings.Settings.model_validate(top_level)
    except ValidationError as error:
        lines = [_describe(e, e["loc"], engine_settings.Settings, "", root, file) for e in error.errors()]
        raise BadParams("\n".join(lines)) from error


def _catalog_names(body: Mapping[str, Any]) -> Iterable[tuple[Location, str, str]]:
    """Yield (location, package, name) of each name in params.yaml that a file of `package` must have.

    Values of a wrong type are skipped here; the validation of the Params reports them.
    """
    for name, source in _mapping(body, "ingestion", "sources").items():
        key = ("source",) if "source" in _mapping(source) else ()
        yield ("ingestion", "sources", name, *key), "tasks.ingestion.sources", str(_mapping(source).get("source", name))
    filters = _mapping(body, "curation").get("filters")
    for index, name in enumerate(filters if isinstance(filters, list) else []):
        yield ("curation", "filters", index), "tasks.curation.filters", str(name)
    for code, language in _mapping(body, "curation", "languages").items():
        for name in _mapping(language, "changes"):
            yield ("curation", "languages", code, "changes", name), "tasks.curation.filters", str(name)
    for name in _mapping(body, "evaluation", "metrics"):
        yield ("evaluation", "metrics", name), "tasks.evaluation.metrics", str(name)
    for stage in body:
        if "stage" in _mapping(body, stage):
            yield (stage, "stage"), TRAINING, str(body[stage]["stage"])
        adapter = _mapping(body, stage).get("adapter")
        if isinstance(adapter, str):
            yield (stage, "adapter"), "tasks.training.adapters", adapter
        elif "name" in _mapping(adapter):
            yield (stage, "adapter", "name"), "tasks.training.adapters", str(_mapping(adapter)["name"])
        if "strategy" in (launch := _mapping(body, stage, "launch")):
            yield (stage, "launch", "strategy"), "tasks.training.parallel.strategies", str(launch["strategy"])


def _validate(stage: str, body: Mapping[str, Any], root: yaml.Node, file: Path) -> BaseModel:
    check_stage(stage, stages(file))
    if stage not in body and stage in NO_FLOWS:
        body = {**body, stage: {}}
    if stage not in body:
        raise BadParams(f"{file} has no section {stage!r}; `{stage}: {{}}` takes every default")
    section_body, kind = body[stage] or {}, stage
    if isinstance(section_body, Mapping) and stage in named_stages(file):
        kind = str(section_body["stage"])
        catalog.find(TRAINING, kind)  # an unknown kind is reported before its params
        section_body = {key: value for key, value in section_body.items() if key != "stage"}
    params = model(kind)
    try:
        valid = params.model_validate(section_body)
    except ValidationError as error:
        lines = [_describe(e, location, params, stage, root, file) for location, e in _leaves(error, ())]
        raise BadParams("\n".join(dict.fromkeys(lines))) from error
    problems = checks.problems(checks.section_of(stage, kind, valid, body, named_stages(file)))
    if lines := [f"{_where(file, root, (stage, *location))}: {text}" for location, text in problems]:
        raise BadParams("\n".join(dict.fromkeys(lines)))
    return valid


def _leaves(error: ValidationError, prefix: Location) -> Iterable[tuple[Location, Any]]:
    """Yield the single mistakes of `error`, also those of a ValidationError that a validator raised inside another."""
    for mistake in error.errors():
        inner = mistake.get("ctx", {}).get("error")
        location = (*prefix, *mistake["loc"])
        if isinstance(inner, ValidationError):
            yield from _leaves(inner, location)
        else:
            yield location, mistake


def _describe(mistake: Any, location: Location, model: type[BaseModel], stage: str, root: yaml.Node, file: Path) -> str:
    where = _where(file, root, (stage, *location) if stage else location)
    if mistake["type"] == "extra_forbidden":
        names = _fields(model, location[:-1])
        return f"{where}: unknown key; " + (catalog.suggest(str(location[-1]), names) if names else "remove it")
    if mistake["type"] == "missing":
        return f"{where}: is missing and has no default"
    if location and location[-1] == "[key]":  # pydantic's mark for a key that is not text
        return f"{where}: the name {location[-2]!r} is not text in YAML; write it in quotes: '{location[-2]}'"
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    for pattern, name in YAML_NAMES.items():
        message = re.sub(pattern, name, message)
    if isinstance(mistake["input"], bool) and mistake["type"] in ("literal_error", "string_type"):
        message += " (YAML reads on, off, yes and no as true or false, unless they are in quotes)"
    received = "" if isinstance(mistake["input"], Mapping) else f", not {mistake['input']!r}"
    return f"{where}: {message}{received}"


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys of the model at `location`; empty if the types do not say which model that is."""
    kinds: list[Any] = [model]
    for part in location:
        inner: list[Any] = []
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                inner += alternatives(kind.model_fields[str(part)].annotation) if part in kind.model_fields else []
            else:  # dict[str, X] or list[X]: the last argument is the type of the items
                inner += [choice for argument in typing.get_args(kind)[-1:] for choice in alternatives(argument)]
        kinds = inner
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sorted({name for kind in models for name in kind.model_fields})


def _where(file: Path, root: yaml.Node, location: Location) -> str:
    return f"{file}, line {_line(root, location)}: {_dotted(location)}"


def _line(node: yaml.Node, location: Location) -> int:
    """Return the line of the key at `location`, or of the nearest key above it that the file contains."""
    line = int(node.start_mark.line) + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            matches = [(key, value) for key, value in node.value if key.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            matches = [(node.value[part], node.value[part])]
        else:
            matches = []
        if matches:
            key, node = matches[0]
            line = int(key.start_mark.line) + 1
    return line


def _refuse_duplicates(node: yaml.Node, path: Location, file: Path) -> None:
    """Raise BadParams for a key that occurs twice, because YAML would silently take the second one."""
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                line = key.start_mark.line + 1
                raise BadParams(f"{file}, line {line}: {_dotted((*path, key.value))} occurs twice; keep one")
            keys.add(key.value)
            _refuse_duplicates(value, (*path, key.value), file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_duplicates(value, (*path, index), file)


def _refuse_secrets(node: yaml.Node, path: Location, file: Path) -> None:
    """Raise BadParams for an address with a password, because DVC copies params into dvc.lock, and git keeps both."""
    pairs: list[tuple[Any, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(key.value, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = list(enumerate(node.value))
    elif addresses.has_secret(str(node.value)):
        raise BadParams(
            f"{file}, line {node.start_mark.line + 1}: {_dotted(path)}: the address contains a password or token, "
            "which git and DVC would keep. Write ${NAME} in its place, as in redis://user:${REDIS_PASSWORD}@host, and "
            "set this variable of the environment, or make a Secret block of Prefect (here with the name "
            "redis-password)."
        )
    for key, value in pairs:
        _refuse_secrets(value, (*path, key), file)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return str(error)
    if "cannot start any token" in problem:
        problem += " (YAML is indented by spaces, not tabs)"
    context = getattr(error, "context", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" + (f" ({context})" if context else "")
