"""Measuring and filtering as a stage of the engine: one task per shard of documents, whose results are files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from tasks import tables
from tasks.curation import filtering, text_files
from tasks.curation.corpus import COLUMNS
from tasks.curation.filtering import Bound, Decision, Language, ParamsByLanguage, PartCounts
from tasks.curation.shards import VALUE, FilteredPart, filter_in_threads, filter_part, word_lists
from tasks.curation.signals import signals
from tasks.curation.signals.store import Store
from tasks.curation.threads import ProgressCallback
from tasks.documents import SCHEMA
from tasks.engine import settings
from tasks.engine.engine import Engine, check_part, complete
from tasks.files import read_json, sha256, write_json

DOCUMENTS, TEXTS, DECISIONS = "documents.arrow", "texts.arrow", "decisions.json"
REASON = "reason"


def filtered_parts(
    documents: Path,
    languages: Mapping[str, Language],
    filters: Sequence[str],
    part_bytes: int,
    run: Path,
    threads: int,
    on_progress: ProgressCallback,
) -> Iterator[FilteredPart]:
    """Measure and filter the table `documents` in parts of `part_bytes`, in threads or on the cluster.

    run: the folder for stored signals and intermediate files. on_progress receives numbers of documents.
    """
    stored, rows = run / "signals", tables.manifest(documents)["rows"]
    if settings.current().engine == "local" or not rows:
        parts = tables.batches(documents, part_bytes) if rows else iter([SCHEMA.empty_table()])
        params, store = filtering.params_by_language(languages, filters), Store(word_lists(languages), stored)
        for part in filter_in_threads(parts, store, params, threads):
            on_progress(len(part.signals))
            yield part
        return
    folder = run / "curation" / "filter"
    with settings.make_engine(folder, threads) as engine:
        yield from filter_on(engine, documents, languages, filters, part_bytes, stored / "shards", on_progress)
    shutil.rmtree(folder)


def filter_on(
    engine: Engine,
    documents: Path,
    languages: Mapping[str, Language],
    filters: Sequence[str],
    part_bytes: int,
    stored: Path,
    on_progress: ProgressCallback,
) -> Iterator[FilteredPart]:
    """Yield what `shards.filter_in_threads` yields for the table `documents` in parts of `part_bytes`.

    stored: the folder of stored signals, where each shard has its own. A shard whose texts and params are those of a
    run that was killed is not repeated. on_progress receives numbers of documents. Raises BadInput if a task has ended
    its worker in every attempt, because its documents would be lost.
    """
    shared = {
        "folder": str(documents.absolute()),
        "languages": {code: language.model_dump(mode="json") for code, language in languages.items()},
        "filters": list(filters),
        "part_bytes": part_bytes,
        "stored": str(stored.absolute()),
        "lists": word_lists(languages).key(),
        "files": _file_digests(filtering.params_by_language(languages, filters)),
    }
    tasks = {f"{n:05d}": {**shared, "shard": shard} for n, shard in enumerate(tables.manifest(documents)["shards"])}
    filtered = engine.run(
        "filter", list(tasks), filter_shard, tasks, lambda _, result: on_progress(result["documents"])
    )
    complete(filtered, "documents would be lost", "Give the workers more memory, and run it again.")
    for key in filtered.parts:
        check_part(filtered, key)
        yield from _read(filtered.path(key, DECISIONS).parent)


def filter_shard(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Measure and filter the documents of one shard; write them as one batch of Arrow for each part."""
    languages = {code: Language.model_validate(body) for code, body in task["languages"].items()}
    params, shard = filtering.params_by_language(languages, task["filters"]), task["shard"]
    store = Store(word_lists(languages), Path(task["stored"]) / Path(shard["name"]).stem)
    decisions, writer = list[Any](), cast(Any, None)
    with ExitStack() as stack:
        texts = stack.enter_context(pa.ipc.new_file(str(part / TEXTS), text_files.SCHEMA))
        for batch in tables.shard_batches(Path(task["folder"]), shard, task["part_bytes"]):
            filtered = filter_part(batch, store, params)
            table = _table(filtered)
            writer = writer or stack.enter_context(pa.ipc.new_file(str(part / DOCUMENTS), table.schema))
            writer.write_batch(table.combine_chunks().to_batches()[0])
            texts.write_batch(pa.record_batch([filtered.texts], schema=text_files.SCHEMA))
            counts = [[*key, count] for key, count in filtered.decision.parts.items()]
            decisions.append({"bounds": [astuple(bound) for bound in filtered.decision.bounds], "parts": counts})
    write_json(part / DECISIONS, decisions)
    return {"documents": shard["rows"]}


def _table(part: FilteredPart) -> pa.Table:
    """Return the documents of a part with their signals, reasons and deciding values."""
    table = part.columns
    for name, column in part.signals.columns():
        table = table.append_column(name, pa.array(column))
    reasons = pa.array(part.decision.reasons.tolist(), pa.string())
    return table.append_column(REASON, reasons).append_column(VALUE, pa.array(part.decision.values))


def _read(folder: Path) -> Iterator[FilteredPart]:
    """Yield the parts that a task has written."""
    decisions = read_json(folder / DECISIONS)
    if not decisions:
        return
    rows, texts = (pa.ipc.open_file(pa.memory_map(str(folder / name))) for name in (DOCUMENTS, TEXTS))
    for number, body in enumerate(decisions):
        table = pa.Table.from_batches([rows.get_batch(number)])
        decision = Decision(
            np.array(table[REASON].to_pylist(), object),
            table[VALUE].to_numpy(),
            [Bound(*bound) for bound in body["bounds"]],
            PartCounts({(rule, code, name, dropped): n for rule, code, name, dropped, n in body["parts"]}),
        )
        yield FilteredPart(
            table.select(COLUMNS), signals.from_table(table), decision, texts.get_batch(number).column(0)
        )


def _file_digests(params: ParamsByLanguage) -> dict[str, str]:
    """Return the digest of each file that a param names, such as a classifier: a change of it is one of the params."""
    values = [value for filters in params.values() for each in filters.values() for value in each.model_dump().values()]
    leaves = [leaf for value in values for leaf in (value if isinstance(value, tuple) else (value,))]
    return {str(file): sha256(file) for file in leaves if isinstance(file, Path) and file.is_file()}
