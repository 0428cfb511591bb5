"""Explain why one document was dropped or kept: its signals, the verdict of every rule, and its outcome."""

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


def explain(data: Path, document_id: str, lists: WordLists, filter_params: ParamsByLanguage) -> Iterator[str]:
    """Yield lines for a terminal: every signal, every verdict in order, and the outcome.

    Raises BadInput if data/documents has no document with this id.
    """
    document = _find_document(data / "documents", document_id)
    texts, metadata = (document[column].combine_chunks() for column in ("text", "metadata"))
    signals = measure(texts, lists.stop_words, lists.phrases)
    yield from _signal_lines(signals)
    language = str(filtering.filter_languages(signals.language, filter_params)[0])
    yield f"Verdicts of the filters for language {language}:"
    for filter_name, params in filter_params[language].items():
        for reason, verdict in filtering.verdicts(filter_name, params, signals, texts, metadata):
            bound = "" if verdict.bound is None else f", bound {verdict.bound:g}"
            yield f"  {'DROPS' if verdict.dropped[0] else 'passes':7}{reason:48}{verdict.values[0]:.4g}{bound}"
    yield _outcome(data, document_id)


def _signal_lines(signals: Signals) -> Iterator[str]:
    for signal in fields(signals):
        value = getattr(signals, signal.name)[0]
        text = value if isinstance(value, str) else f"{value:.4g}"
        yield f"  {signal.name:34}{text:>10}  {signal.metadata['meaning']} [{signal.metadata['unit']}]"


def _find_document(folder: Path, document_id: str) -> pa.Table:
    """Return the table of the one document."""
    for shard in tables.shards(folder, ["id", "text", "metadata"]):
        document = shard.filter(pc.equal(shard["id"], document_id))
        if document.num_rows:
            return document
    raise BadInput(f"no document {document_id!r} in {folder}. The column `id` of its Parquet files contains the ids.")


def _outcome(data: Path, document_id: str) -> str:
    """Return a line on what the last run of curation did with the document."""
    folder = data / "dropped" / "documents"
    if not (folder / "manifest.json").is_file():
        return "Curation has not run yet."
    table = tables.read(folder, ["id", "reason", "value", "duplicate_of", "cluster_size"])
    rows = table.filter(pc.equal(table["id"], document_id)).to_pylist()
    if not rows:
        return "The last run of curation kept this document."
    row = rows[0]
    duplicate = f", because of {row['duplicate_of']}" if row["duplicate_of"] else ""
    return f"dropped: {row['reason']}{duplicate} (documents in its cluster: {row['cluster_size']})"
