"""Clusters of near-duplicates of a corpus whose band keys do not fit in memory: the method of `clusters.py` over files.

Each step is a stage of the engine. (band key, row of the document) pairs are divided by the hash of the key; the
documents of a bucket become edges to the smallest row; the components of these edges are candidates (`stars.py`). The
rows of a component come together in one file, where its pairs are verified as in memory. Texts never move: a task reads
those that it needs from the file of texts. The result does not depend on the number of partitions, tasks or workers.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from tasks.curation.arrays import Int32Array, Int64Array
from tasks.curation.duplicates import clusters, minhash, partitions, stars
from tasks.curation.duplicates.ranking import Ids, best_rows
from tasks.curation.duplicates.row_files import Minima, RowWriter, read_partition
from tasks.curation.threads import ProgressCallback, ignore_progress
from tasks.engine import settings
from tasks.engine.engine import Engine, check_part, discard_files

MEMBERS, GROUPED, CLUSTERS = "members", "grouped", "clusters.npy"
TASK_BYTES = 256 << 20  # text that one task signs
# Of one row of a partition in memory: its slot of 24 bytes, in a table that is at least a third full, while the table
# grows to twice its size.
BYTES_PER_ROW = 24 * 3 * 3 // 2
MAX_BITS = 12
# `minhash.duplicates` takes up to 12, of which 8 are the key itself; the others are for the texts that it verifies and
# for the other arrays of curation.
BYTES_PER_KEY = 18
FOLDER_END = "-duplicates"  # the folder of the engine is named after the file of texts


def duplicates(
    texts: pa.ChunkedArray,
    texts_file: Path,
    params: minhash.Params,
    priority: npt.NDArray[Any],
    ids: Ids | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> tuple[Int64Array, Int64Array]:
    """Return what `minhash.duplicates` returns, with files where it would need more than the memory.

    texts: of `texts_file`, an Arrow file (`text_files.write`). The settings of the engine say how much memory there is,
    and whether a cluster does the work. Both ways give the same result.
    """
    memory = settings.memory_bytes()
    num_keys = len(texts) * params.banding()[0]
    if settings.current().engine == "local" and BYTES_PER_KEY * num_keys <= memory:
        return minhash.duplicates(texts, params, priority, ids, threads, on_progress)
    folder = texts_file.with_name(f"{texts_file.stem}{FOLDER_END}")
    for earlier in texts_file.parent.glob(f"*{FOLDER_END}"):  # of runs that were killed, with other texts
        if earlier != folder:
            shutil.rmtree(earlier)
    with settings.make_engine(folder, threads if threads > 1 else 0) as engine:
        roots = connect(engine, texts_file, params, memory // (4 * threads), on_progress)
    shutil.rmtree(folder)
    return best_rows(roots, priority, text_lengths(texts), ids)


def partition_bits(num_rows: int, memory: int) -> int:
    """Return b so that one of 2^b partitions of `num_rows` rows fits in `memory` bytes."""
    return min(MAX_BITS, max(0, (num_rows * BYTES_PER_ROW // memory).bit_length()))


def connect(
    engine: Engine, texts_file: Path, params: minhash.Params, memory: int, on_progress: ProgressCallback
) -> Int32Array:
    """Return one root per text, equal within a cluster: what `clusters.connect_duplicates` returns in memory.

    texts_file: of `text_files.write`. memory: bytes that one task may use. Raises BadInput if a task has ended its
    worker in every attempt, because its documents would not be compared.
    """
    texts = read_texts(texts_file)
    bits = partition_bits(len(texts) * params.banding()[0], memory)
    shared = {"texts": str(texts_file.absolute()), "params": params.model_dump(mode="json")}
    tasks = {key: {**task, **shared, "bits": bits} for key, task in _signing_tasks(texts, params).items()}
    signed = partitions.complete(
        engine.run("sign", list(tasks), sign, tasks, lambda _, result: on_progress(result["bytes"]))
    )
    inputs = partitions.inputs(signed, bits)
    linked = partitions.complete(engine.run("buckets", list(inputs), buckets, inputs))
    labels, _ = stars.components(engine, linked, bits)
    inputs = partitions.inputs(linked, bits, labels=partitions.folders(labels))
    grouped = partitions.complete(engine.run("group", list(inputs), group, inputs))
    inputs = partitions.inputs(grouped, bits, **shared)
    verified = partitions.complete(engine.run("verify", list(inputs), verify, inputs))
    roots = np.arange(len(texts), dtype=np.int32)
    for key in verified.parts:
        check_part(verified, key)
        rows, row_roots = np.load(verified.path(key, CLUSTERS)).T
        roots[rows] = row_roots
    for stage in (signed, linked, labels, grouped):
        discard_files(stage)
    return roots


def read_texts(path: Path) -> pa.ChunkedArray:
    """Return the texts of a file of `text_files.write`, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"]


def text_lengths(texts: pa.ChunkedArray) -> Int64Array:
    """Return the bytes of each text from the offsets alone, so that no text is read."""
    return np.concatenate(
        [np.empty(0, np.int64), *(pc.binary_length(chunk).cast(pa.int64()).to_numpy() for chunk in texts.chunks)]
    )


def sign(part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Write (band key, row) for each band of the texts in some chunks of the file of texts."""
    params, first = minhash.Params.model_validate(task["params"]), task["row"]
    texts = pa.chunked_array(read_texts(Path(task["texts"])).chunks[task["chunk"] : task["chunk"] + task["chunks"]])
    with RowWriter(part, stars.EDGES, 2, task["bits"]) as writer:
        for chunk in texts.chunks:
            banded = minhash.compute_band_keys(chunk, params)
            kept = np.flatnonzero(banded.has_shingles)
            rows = np.broadcast_to((first + kept).astype(np.uint64), (len(banded.keys), len(kept)))
            writer.add(np.stack([banded.keys[:, kept].ravel(), rows.ravel()], axis=1))
            first += len(chunk)
    return {"rows": writer.num_rows, "bytes": int(text_lengths(texts).sum())}


def buckets(part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Write the edges and the members of the buckets of one partition of keys: keys that several documents have."""
    source, table = (task["folders"], stars.EDGES, 2, task["partition"]), Minima()
    num_rows = num_members = 0
    for rows in read_partition(*source):
        table.add(rows[:, 0], rows[:, 1])
        num_rows += len(rows)
    with (
        RowWriter(part, stars.EDGES, 2, task["bits"], distinct=True) as edges,
        RowWriter(part, MEMBERS, 2, task["bits"]) as members,
    ):
        for rows in read_partition(*source):
            smallest, counts = table.find(rows[:, 0])
            is_member = counts > 1
            key, row = rows[is_member].T
            members.add(np.stack([row, key], axis=1))
            star = np.stack([row, smallest[is_member]], axis=1)
            edges.add(stars.both_directions(star[star[:, 0] != star[:, 1]]))
            num_members += len(row)
    return {"rows": num_rows, "members": num_members, "edges": edges.num_rows}


def group(part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Write (component, row, key) of the members in one partition of rows."""
    labels = Minima()
    for rows in read_partition(task["labels"], stars.EDGES, 2, task["partition"]):
        labels.add(rows[:, 0], rows[:, 1])
    with RowWriter(part, GROUPED, 3, task["bits"]) as writer:
        for rows in read_partition(task["folders"], MEMBERS, 2, task["partition"]):
            # The center of a component has larger neighbors only; every other row has the center.
            component = np.minimum(labels.find(rows[:, 0])[0], rows[:, 0])
            writer.add(np.stack([component, rows[:, 0], rows[:, 1]], axis=1))
    return {"rows": writer.num_rows}


def verify(part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Write (row, root of its cluster) of the documents that verified pairs connect, of some components."""
    pieces = list(read_partition(task["folders"], GROUPED, 3, task["partition"]))
    rows = np.concatenate(pieces) if pieces else np.empty((0, 3), np.uint64)
    params, texts = minhash.Params.model_validate(task["params"]), read_texts(Path(task["texts"]))
    sets_of = minhash.sets_reader(texts, params)
    # From here on, documents are numbered in the order of their rows; `texts` of others are not read.
    documents, first_places, members = np.unique(rows[:, 1], return_index=True, return_inverse=True)
    components = np.unique(rows[first_places, 0], return_inverse=True)[1].astype(np.int32)
    lengths = text_lengths(texts)[documents]
    result, position = [np.empty((0, 2), np.int32)], np.empty(len(documents), np.int64)
    by_batch = np.full(len(documents), -1)
    all_batches = list(clusters.batches(components, lengths))
    for number, batch in enumerate(all_batches):
        by_batch[batch], position[batch] = number, np.arange(len(batch))
    order = np.argsort(by_batch[members], kind="stable")
    ends = np.searchsorted(by_batch[members][order], np.arange(len(all_batches)), side="right")
    for batch, begin, end in zip(all_batches, [0, *ends], ends, strict=False):
        of_batch, batch_rows = order[begin:end], documents[batch].astype(np.int32)
        places, keys_of_batch = position[members[of_batch]], [rows[of_batch, 2]]
        shared = keys_of_batch, params.threshold, params.max_bucket, places
        if lengths[batch].sum() <= clusters.LARGE_BYTES:
            connected = clusters.connect_members(sets_of(batch_rows), *shared)
        else:
            connected = clusters.connect_in_blocks(sets_of, batch_rows, lengths[batch], *shared)
        result.append(np.stack([batch_rows, batch_rows[connected.roots]], axis=1))
    np.save(part / CLUSTERS, np.concatenate(result))
    return {"documents": len(documents)}


def _signing_tasks(texts: pa.ChunkedArray, params: minhash.Params) -> dict[str, dict[str, Any]]:
    """Divide the chunks of the texts into tasks of about TASK_BYTES.

    The digest of their texts and what else the keys depend on are part of the input, so that a run that was killed is
    resumed only for what is unchanged.
    """
    tasks, row, size = list[dict[str, Any]](), 0, TASK_BYTES
    digest = xxhash.xxh3_128()
    for number, chunk in enumerate(texts.chunks):
        if size >= TASK_BYTES:
            digest.reset()
            tasks.append({"chunk": number, "chunks": 0, "row": row, "contract": params.contract()})
            size = 0
        # The file has no nulls, and each of its chunks begins with its own buffers.
        for buffer in filter(None, chunk.buffers()[1:]):
            digest.update(buffer)
        tasks[-1]["digest"] = digest.hexdigest()
        tasks[-1]["chunks"] += 1
        row += len(chunk)
        size += chunk.nbytes
    return {f"{number:05d}": task for number, task in enumerate(tasks)}
