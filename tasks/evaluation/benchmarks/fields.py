"""Values of fields: paths of columns, templates, expressions, and lists of these."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any


class FieldProblem(ValueError):
    """A field of one row has no usable value. `reason` names field and problem; rows with one reason are counted.

    received: the value of this row, for the message about the first one.
    """

    def __init__(self, reason: str, received: Any = None) -> None:
        super().__init__(reason)
        self.reason, self.received = reason, received


def evaluate(name: str, place: Any, values: Mapping[str, Any]) -> Any:
    """The value of the field `name` that `place` describes; `values` are those of `context`. Raises FieldProblem."""
    if isinstance(place, list):
        return [evaluate(name, part, values) for part in place]
    if not isinstance(place, str) or not place:
        return place  # a constant
    if (kind := _kind(place)) is not None:
        return _computed(name, place.removeprefix("=") if kind == "expression" else place, values, kind == "template")
    return _at_path(name, place, values)


def syntax_problems(place: Any) -> Iterator[str]:
    """Yield what is wrong with the templates and expressions in `place`, before there is any row."""
    import jinja2

    for part in place if isinstance(place, list) else [place]:
        if isinstance(part, list):
            yield from syntax_problems(part)
        elif isinstance(part, str) and (kind := _kind(part)) is not None:
            try:
                _compiled(part.removeprefix("=") if kind == "expression" else part, kind == "template")
            except jinja2.TemplateError as error:
                yield f"the {kind} `{part}` cannot be read: {error}"


def _kind(place: str) -> str | None:
    if place.startswith("="):
        return "expression"
    return "template" if "{{" in place or "{%" in place else None


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template. Raises FieldProblem."""
    return str(_computed("prompt", template, values, as_template=True))


def context(row: Any, file: str = "") -> dict[str, Any]:
    """The names that paths and templates know: the columns, `row`, and `file` (the name without its ending)."""
    columns = {str(key): value for key, value in row.items()} if isinstance(row, Mapping) else {}
    return {"file": file} | columns | {"row": row}


def with_element(values: Mapping[str, Any], element: Any) -> dict[str, Any]:
    """The names for one element of an exploded list: also its own columns, and `item`."""
    columns = {str(key): value for key, value in element.items()} if isinstance(element, Mapping) else {}
    return {**values, **columns, "item": element}


def _computed(name: str, text: str, values: Mapping[str, Any], as_template: bool) -> Any:
    import jinja2

    try:
        compiled = _compiled(text, as_template)
        value = compiled.render(values) if as_template else compiled(**values)
    except jinja2.UndefinedError as error:
        raise FieldProblem(f"{name} cannot be computed from `{text}`: {error}; {_available(values)}") from error
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise FieldProblem(f"{name} cannot be computed from `{text}`: {error}") from error
    if value is None or isinstance(value, jinja2.Undefined):
        raise FieldProblem(f"{name} is missing: `{text}` has no value")
    return value


@lru_cache(maxsize=256)
def _compiled(text: str, as_template: bool) -> Any:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["from_json"] = json.loads
    if as_template:
        return environment.from_string(text)
    return environment.compile_expression(text, undefined_to_none=False)


def _at_path(name: str, path: str, values: Mapping[str, Any]) -> Any:
    """The value at `path`: a whole column name, or keys and indices that are joined by dots."""
    if path in values:
        return _not_null(name, path, values[path])
    parts = path.split(".")
    value: Any = values["row"] if parts[0].isdigit() else values
    for part in parts:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise FieldProblem(f"{name} is missing: there is no `{path}`; {_available(value)}")
    return _not_null(name, path, value)


def _not_null(name: str, path: str, value: Any) -> Any:
    if value is None:
        raise FieldProblem(f"{name} is missing: `{path}` is null")
    return value


def _available(value: Any) -> str:
    if isinstance(value, Mapping):
        names = sorted(str(key) for key in value if key not in ("row", "item", "file", "letters"))
        lists = [name for name in names if _is_list_of_mappings(value.get(name))]
        hint = f" (`explode: {lists[0]}` reads the elements of this list)" if len(lists) == 1 else ""
        return f"available: {', '.join(names)}{hint}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"the list has {len(value)} elements"
    return f"received {type(value).__name__}"


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], Mapping)
