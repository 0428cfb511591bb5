"""Read YAML that people write, within bounds: a file of a few lines can otherwise stand for millions of values."""

from pathlib import Path
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled parser where PyYAML was built with it
MAX_BYTES = 1 << 20
MAX_DEPTH = 32  # mappings and lists inside one another; params.yaml needs 7
MAX_VALUES = 100_000  # keys and values, with those of an anchor counted at each of its aliases


def read(file: Path) -> tuple[Any, yaml.Node | None]:
    """Return the content of `file`, and its nodes, which know their lines.

    Raises OSError, UnicodeDecodeError, and yaml.YAMLError for text that is not YAML or exceeds a bound.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise yaml.YAMLError(f"the file has {size:,} bytes, and at most {MAX_BYTES:,} are read")
    text = file.read_text(encoding="utf-8-sig")
    check_bounds(text)
    try:
        return yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (ValueError, TypeError, RecursionError) as error:  # such as the date 2024-13-45, or a list as a key
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


def check_bounds(text: str) -> None:
    """Raise yaml.YAMLError if `text` is nested too deeply, refers to itself, or stands for too many values.

    Reads the events of the parser, which needs no recursion and does not replace aliases.
    """
    sizes: dict[str, int] = {}  # anchor -> number of its values, with aliases replaced
    open_nodes: list[tuple[str | None, int]] = []  # anchor and number of values before, of each node around this one
    total = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise _error(event, f"the alias *{event.anchor} is inside its own anchor")
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, total - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        if len(open_nodes) > MAX_DEPTH:
            raise _error(event, f"more than {MAX_DEPTH} mappings and lists are inside one another")
        if total > MAX_VALUES:
            raise _error(event, f"there are more than {MAX_VALUES:,} values when aliases are replaced")


def _error(event: yaml.Event, problem: str) -> yaml.YAMLError:
    line = event.start_mark.line + 1 if event.start_mark else 1
    return yaml.YAMLError(f"line {line}: {problem}")
