"""One document's signals and verdicts, for a person who asks why it was dropped or kept."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks import tables
from tasks.curation import filtering
from tasks.curation.filtering import ParamsByLanguage
from tasks.curation.signals.signals import Signals, measure
from tasks.curation.signals.store import WordLists
from tasks.errors import BadInput


def explain(data: Path, name: str, lists: WordLists, filter_params: ParamsByLanguage) -> Iterator[str]:
    """Lines for a terminal: every signal, then every verdict in order, then what became of it. Raises BadInput."""
    found = _find(data / "documents", name)
    texts, metadata = (found[column].combine_chunks() for column in ("text", "metadata"))
    signals = measure(texts, lists.stop_words, lists.phrases)
    yield from _signals(signals)
    language = str(filtering.filter_languages(signals, filter_params)[0])
    yield f"judged as {language}:"
    for filter_name, params in filter_params[language].items():
        for reason, verdict in filtering.verdicts(filter_name, params, signals, texts, metadata):
            bound = "" if verdict.bound is None else f", bound {verdict.bound:g}"
            yield f"  {'DROPS' if verdict.dropped[0] else 'passes':7}{reason:48}{verdict.values[0]:.4g}{bound}"
    yield _outcome(data, name)


def _signals(signals: Signals) -> Iterator[str]:
    for each in fields(signals):
        value, about = getattr(signals, each.name)[0], each.metadata
        shown = value if isinstance(value, str) else f"{value:.4g}"
        yield f"  {each.name:34}{shown:>10}  {about['meaning']} [{about['unit']}]"


def _find(folder: Path, name: str) -> pa.Table:
    for shard in tables.shards(folder, ["id", "text", "metadata"]):
        found = shard.filter(pc.equal(shard["id"], name))
        if found.num_rows:
            return found
    raise BadInput(f"no document {name!r} in {folder}. Ids stand in the column `id` of its shards.")


def _outcome(data: Path, name: str) -> str:
    folder = data / "dropped" / "documents"
    if not (folder / "manifest.json").is_file():
        return "curation has not run yet"
    table = tables.read(folder, ["id", "reason", "value", "duplicate_of", "cluster_size"])
    rows = table.filter(pc.equal(table["id"], name)).to_pylist()
    if not rows:
        return "kept"
    of = f", stands behind {rows[0]['duplicate_of']}" if rows[0]["duplicate_of"] else ""
    return f"dropped: {rows[0]['reason']}{of} (cluster of {rows[0]['cluster_size']})"
