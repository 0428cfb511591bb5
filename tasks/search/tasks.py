"""Search in curated data, for the command `python -m flows.search`."""

from pathlib import Path

from tasks.search import index
from tasks.search.index import Hit, describe

__all__ = ["Hit", "describe", "search"]


def search(query: str, num_hits: int, data: Path, folder: Path) -> list[Hit]:
    """Return the records that share most passages with `query`; the index is kept in `folder`. Raises BadInput."""
    return index.search(data, index.build(data, folder), query, num_hits)
