"""Print every key that params.yaml may contain, with its type, its default, its unit and its meaning."""

import json
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.runtime import arguments, command, params
from tasks import catalog
from tasks.engine.settings import Settings

PLUG_INS = {  # key of params.yaml -> package whose files define further keys below it
    "ingestion.sources.<name>": "tasks.ingestion.sources",
    "curation.languages.<name>.changes": "tasks.curation.filters",
    "adapter": "tasks.training.adapters",  # in the section of every training stage
}
MAX_WIDTH = 120
MAX_DEFAULT = 60  # characters of a default in docs/params.md
ADAPTER = ".adapter("
EXAMPLE = Path("no params.yaml")  # docs/params.md lists the stages that every project has, not those of params.yaml
PAGE_HEAD = """# Every setting

The keys of params.yaml, with their defaults, types and meanings. `<name>` stands for a name of yours, and
`key(plug-in)` for the keys that a plug-in adds. `python -m flows.params [STAGE]` prints the same.
`python -m tests.test_readme` writes this page from the code."""
TABLE_HEAD = ("| key | default | type | meaning |", "|---|---|---|---|")
SECTION = "section"  # a key whose own keys follow, with their own defaults


@dataclass(frozen=True)
class Key:
    """One key of params.yaml. `default` is a value of JSON; it has no meaning if the key is required."""

    key: str
    type: str
    required: bool
    default: Any
    description: str


def stage_keys(stage: str) -> Iterator[Key]:
    """Yield the keys of a stage's section, then those of its plug-ins, such as sources and adapters."""
    yield from _model_keys(params.model(stage), stage, None)


def top_level_keys() -> Iterator[Key]:
    """Yield the keys of params.yaml that belong to no stage."""
    return (replace(key, key=key.key.removeprefix(".")) for key in _model_keys(Settings, "", None))


def _model_keys(model: type[BaseModel], path: str, default: BaseModel | None) -> Iterator[Key]:
    """Yield the keys of `model` at `path`; their defaults are in `default`, or those of the class if it is None."""
    for name, field in model.model_fields.items():
        if field.annotation is BaseModel:  # the Params of a plug-in, whose keys are beside those of `model`
            continue
        key = f"{path}.{name}"
        value = field.get_default(call_default_factory=True) if default is None else getattr(default, name)
        is_required = default is None and field.is_required()
        yield Key(key, _type(field), is_required, None if is_required else _json(value), field.description or "")
        yield from _inner_keys(field.annotation, key, value)


def _inner_keys(annotation: Any, key: str, value: Any) -> Iterator[Key]:
    """Yield the keys below `key`: of a nested model, of the items of a mapping, and of the plug-ins of its package."""
    for kind in params.alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _model_keys(kind, key, value if isinstance(value, kind) else None)
        elif typing.get_origin(kind) is dict:
            yield from _inner_keys(typing.get_args(kind)[1], f"{key}.<name>", None)
    package = PLUG_INS.get(key) or PLUG_INS.get(key.rsplit(".", 1)[-1])
    for name in catalog.names(package) if package else []:
        yield from _model_keys(catalog.find(package, name).Params, f"{key}({name})", None)


def _type(field: FieldInfo) -> str:
    """Return the type of a field in the terms of YAML, with its bounds: `int >= 1`."""
    names = [name for kind in params.alternatives(field.annotation) for name in _type_names(kind)]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{sign} {getattr(c, name)}" for c in field.metadata for name, sign in signs.items() if hasattr(c, name)]
    return " ".join([" | ".join(dict.fromkeys(names)), " and ".join(bounds)]).strip()


def _type_names(kind: Any) -> list[str]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return [json.dumps(choice) for choice in inner]
    if origin in (tuple, list):
        items = [name for part in inner if part is not Ellipsis for name in _type_names(part)]
        return [f"list of {' and '.join(dict.fromkeys(items))}"]
    if origin is dict:
        return ["mapping"]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [SECTION]
    if isinstance(kind, type) and issubclass(kind, str):
        return ["str"]  # an address is text
    return ["null" if kind is type(None) else getattr(kind, "__name__", str(kind))]


def _json(value: Any) -> Any:
    """Return a default value as params.yaml would write it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    return str(value) if isinstance(value, PurePath) else value


def print_text(keys: Iterable[Key]) -> None:
    """Print each key with its default and type, and its description below it."""
    for key in keys:
        default = json.dumps(key.default, ensure_ascii=False, default=str)
        if key.required:
            text = f"{key.key} (required)"
        elif SECTION in key.type and key.default is not None:
            text = key.key
        else:
            text = f"{key.key} = {default}"
        print(f"{text}   ({key.type})")
        print(textwrap.fill(key.description, MAX_WIDTH, initial_indent="    ", subsequent_indent="    "))


def print_json(keys: Iterable[Key]) -> None:
    """Print a JSON list with one object per key."""
    print(json.dumps([asdict(key) for key in keys], ensure_ascii=False, indent=1, default=str))


def page() -> str:
    """Return docs/params.md: a table of the keys of each stage; the keys of adapters, which all have, once."""
    lines = [PAGE_HEAD, "\n## Top level\n", *TABLE_HEAD, *map(_row, top_level_keys())]
    adapters: dict[str, Key] = {}
    for stage in params.stages(file=EXAMPLE):
        lines += [f"\n## {stage}\n", *TABLE_HEAD]
        for key in stage_keys(stage):
            if ADAPTER in key.key:
                name = key.key.partition(".")[2]
                adapters.setdefault(name, replace(key, key=name))
            else:
                lines.append(_row(key))
    lines += ["\n## Adapters\n", "In the section of every training stage except pretrain.\n", *TABLE_HEAD]
    return "\n".join([*lines, *map(_row, adapters.values())]) + "\n"


def _row(key: Key) -> str:
    default = (
        ""
        if SECTION in key.type
        else "required"
        if key.required
        else f"`{json.dumps(key.default, ensure_ascii=False, default=str)}`"
    )
    if len(default) > MAX_DEFAULT:
        default = f"{default[:MAX_DEFAULT]}...`"
    cells = (f"`{key.key}`", default, key.type, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.params", __doc__)
    parser.add_argument("stage", metavar="STAGE", nargs="?", help=f"only this stage: {', '.join(params.stages())}")
    arguments.add_json(parser)
    parsed = parser.parse_args()

    def work() -> None:
        if parsed.stage is not None:
            params.check_stage(parsed.stage, params.stages())
        stages = [parsed.stage] if parsed.stage else params.stages()
        keys = [key for stage in stages for key in stage_keys(stage)]
        if parsed.stage is None:
            keys = [*top_level_keys(), *keys]
        if parsed.json:
            print_json(keys)
        else:
            print_text(keys)

    return command.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
