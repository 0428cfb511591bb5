"""Incremental deduplication: a new delivery against everything that came before, from a stored index.

The index holds one folder for each delivery: a table of band keys and exact hashes, and one of shingle sets to verify
candidates by. Old text is neither read nor changed. A delivery is compared with those before it alone, so that running
it again changes nothing.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks import tables
from tasks.curation.arrays import Int32Array, Int64Array, ObjectArray, UInt64Array
from tasks.curation.duplicates import clusters, exact, minhash
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text.words import CHUNK_ROWS, Texts, byte_lengths
from tasks.errors import BadInput
from tasks.files import read_json, write_json

MARK = "delivery.json"  # written last: a folder without it is what a killed run left behind
NOBODY = np.iinfo(np.int64).max

_SETS = pa.schema([pa.field("shingles", pa.large_list(pa.uint64()), nullable=False)])


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery in the index: its place in time, its name, and what must not change."""

    folder: Path
    number: int
    name: str
    content: str
    contract: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Incoming:
    """The documents of a delivery as they are compared: keys, exact hashes, and the shingle sets of some of them."""

    ids: pa.Array
    hashes: exact.Digests
    banded: minhash.Banded
    sets_of: Callable[[Int32Array], clusters.Sets]

    def content(self) -> str:
        """Names these documents in this order."""
        return hashlib.sha256("\0".join(self.ids.to_pylist()).encode() + self.hashes.tobytes()).hexdigest()


def deduplicate(
    index: Path,
    name: str,
    texts: Texts,
    ids: pa.Array,
    params: minhash.Params,
    priority: npt.NDArray[Any],
    threads: int = 1,
) -> pa.Array:
    """Add a delivery to the index; for each text the id it duplicates, of this or an earlier one, null if it is kept.

    A cluster that has met an earlier delivery is dropped whole; else its best member stays, as in `minhash.duplicates`.
    Raises BadInput where the index was made by other params, and where an earlier delivery comes back changed.
    """
    sets_of = minhash.sets_from(texts, params)
    incoming = Incoming(ids, exact.digests(texts, threads), minhash.band(texts, params, threads), sets_of)
    known = _checked(deliveries(index), params.contract())
    number = _number(known, name, incoming.content())
    roots = clusters_of(incoming, byte_lengths(texts), params)
    row, _ = clusters.representatives(roots, ranks(priority, byte_lengths(texts), ids))
    kept = np.array(ids.to_pylist(), object)[np.where(row < 0, np.arange(len(row)), row)]
    for past in reversed([delivery for delivery in known if delivery.number < number]):
        met = _meet(incoming, past, params.threshold)
        first = np.full(len(roots), NOBODY, np.int64)
        np.minimum.at(first, roots, met)
        found = first[roots] < NOBODY
        kept[found] = _column(past, "kept")[first[roots][found]]
    _store(index / f"{number:05d}", name, incoming, kept, params)
    return pa.array([None if new == old else old for new, old in zip(ids.to_pylist(), kept, strict=True)], pa.string())


def accept(
    index: Path, texts: Texts, ids: pa.Array, params: minhash.Params, priority: npt.NDArray[Any], threads: int = 1
) -> ObjectArray:
    """For each text the id it duplicates, None if it is kept: as it was said when the text came first.

    A text is known by its id and exact hash. Those that the index does not know yet are a delivery of their own.
    """
    hashes, names = exact.digests(texts), np.array(ids.to_pylist(), object)
    kept, fresh = np.full(len(names), None, object), np.ones(len(names), np.bool_)
    for past in _checked(deliveries(index), params.contract()):
        for _, table in _shards(past):
            rows = np.asarray(pc.index_in(table["id"], ids).fill_null(-1).to_numpy())
            old = np.stack([_numbers(table, "hash_0"), _numbers(table, "hash_1")], axis=1)
            known = (rows >= 0) & (old == hashes[rows]).all(axis=1)
            kept[rows[known]], fresh[rows[known]] = table["kept"].to_numpy()[known], False
    if fresh.any():
        some, new = pa.array(fresh), names[fresh]
        content = hashlib.sha256("\0".join(new).encode() + hashes[fresh].tobytes()).hexdigest()
        fresh_ids, fresh_texts = ids.filter(some), texts.filter(some)
        found = deduplicate(index, content[:16], fresh_texts, fresh_ids, params, priority[fresh], threads)
        kept[fresh] = np.where(found.is_null(), new, np.array(found.to_pylist(), object))
    kept[kept == names] = None
    return kept


def deliveries(index: Path) -> list[Delivery]:
    """What the index holds, oldest first."""
    marks = sorted(index.glob(f"*/{MARK}"))
    bodies = ((mark.parent, read_json(mark)) for mark in marks)
    return [Delivery(at, int(at.name), body["name"], body["content"], body["contract"]) for at, body in bodies]


def _checked(known: list[Delivery], contract: dict[str, Any]) -> list[Delivery]:
    for delivery in known:
        changed = [key for key, value in contract.items() if delivery.contract.get(key) != value]
        if changed:
            was = ", ".join(f"{key} {delivery.contract.get(key)!r}" for key in changed)
            now = ", ".join(f"{key} {contract[key]!r}" for key in changed)
            where = f"The index of deliveries in {delivery.folder.parent}"
            raise BadInput(f"{where} was made with {was}, not {now}. Go back to those params or start a new index.")
    return known


def _number(known: list[Delivery], name: str, content: str) -> int:
    for delivery in known:
        if delivery.name == name:
            if delivery.content != content and delivery is not known[-1]:
                raise BadInput(
                    f"The delivery {name!r} has changed since {known[-1].name!r} was compared with it "
                    f"(see {delivery.folder}). Deliver what is new under a new name."
                )
            return delivery.number
    return known[-1].number + 1 if known else 0


def clusters_of(incoming: Incoming, lengths: Int64Array, params: minhash.Params) -> Int32Array:
    """Clusters within the delivery: near-duplicates, and equal texts even where they are too short for shingles."""
    banded = incoming.banded
    near = clusters.verify(
        banded.keys, banded.signed, lengths, incoming.sets_of, params.threshold, params.max_bucket
    ).roots
    equal = np.unique(incoming.hashes.view("V16").ravel(), return_inverse=True)[1].ravel()
    keys = np.stack([near.astype(np.uint64), equal.astype(np.uint64)])
    return clusters.candidates(keys, np.ones(len(near), np.bool_))


def _meet(incoming: Incoming, past: Delivery, threshold: float) -> Int64Array:
    """For each new document the first row of a past delivery that it duplicates; NOBODY where there is none."""
    met = np.full(len(incoming.ids), NOBODY, np.int64)
    pairs = [np.empty((0, 2), np.int64)]
    for start, table in _shards(past):
        new, old = _equal(incoming.hashes[:, 0], _numbers(table, "hash_0"))
        same = incoming.hashes[new, 1] == _numbers(table, "hash_1")[old]
        np.minimum.at(met, new[same], start + old[same])
        signed = _numbers(table, "signed") > 0
        for band, key in enumerate(incoming.banded.keys):
            new, old = _equal(key, _numbers(table, f"band_{band}"))
            sound = incoming.banded.signed[new] & signed[old]
            pairs.append(np.stack([new[sound], start + old[sound]], axis=1))
    candidates = np.unique(np.concatenate(pairs), axis=0)
    candidates = candidates[candidates[:, 1] < met[candidates[:, 0]]]
    for new_row, old_row in _verified(incoming, past, candidates, threshold):
        met[new_row] = min(met[new_row], old_row)
    return met


def _equal(new: UInt64Array, old: UInt64Array) -> tuple[Any, Any]:
    """The rows of all pairs of equal keys: those of the new, those of the old."""
    order = np.argsort(new, kind="stable")
    low = np.searchsorted(new[order], old, "left")
    counts = np.searchsorted(new[order], old, "right") - low
    rows = np.repeat(np.arange(len(old)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(low, counts) + within], rows


def _verified(incoming: Incoming, past: Delivery, pairs: Int64Array, threshold: float) -> Iterator[tuple[int, int]]:
    rows = np.unique(pairs[:, 0])
    hashes, ends = incoming.sets_of(rows.astype(np.int32))
    place = {row: i for i, row in enumerate(rows.tolist())}
    old_sets = _old_sets(past, np.unique(pairs[:, 1]))
    for new, old in pairs.tolist():
        i = place[new]
        if clusters.jaccard(hashes[ends[i] : ends[i + 1]], old_sets[old]) >= threshold:
            yield new, old


def _old_sets(past: Delivery, rows: Int64Array) -> dict[int, UInt64Array]:
    found, start = {}, 0
    for table in tables.shards(past.folder / "sets"):
        here = rows[(rows >= start) & (rows < start + table.num_rows)]
        taken = table["shingles"].take(pa.array(here - start))
        for row, value in zip(here.tolist(), taken, strict=True):
            found[row] = np.array(value.values.to_numpy(zero_copy_only=False), np.uint64)
        start += table.num_rows
    return found


def _store(folder: Path, name: str, incoming: Incoming, kept: npt.NDArray[Any], params: minhash.Params) -> None:
    """Write a delivery's tables, and its mark last."""
    if folder.exists():
        shutil.rmtree(folder)
    columns = {"id": incoming.ids, "kept": pa.array(kept.tolist(), pa.string())}
    columns |= {f"hash_{i}": pa.array(np.ascontiguousarray(incoming.hashes[:, i])) for i in range(2)}
    columns |= {"signed": pa.array(incoming.banded.signed.astype(np.uint64))}
    columns |= {f"band_{i}": pa.array(key) for i, key in enumerate(incoming.banded.keys)}
    table = pa.table(columns)
    tables.write(folder / "keys", table.schema, [table])
    with tables.Writer(folder / "sets", _SETS) as writer:
        for start in range(0, len(kept), CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, len(kept)), dtype=np.int32)
            hashes, ends = incoming.sets_of(rows)
            lists = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(hashes))
            writer.add_table(pa.table({"shingles": lists}, schema=_SETS))
    body = {"name": name, "content": incoming.content(), "contract": params.contract(), "documents": len(kept)}
    write_json(folder / MARK, body)


def _shards(past: Delivery) -> Iterator[tuple[int, pa.Table]]:
    start = 0
    for table in tables.shards(past.folder / "keys"):
        yield start, table
        start += table.num_rows


def _column(past: Delivery, name: str) -> npt.NDArray[Any]:
    return np.array(tables.read(past.folder / "keys", [name])[name].to_pylist(), object)


def _numbers(table: pa.Table, name: str) -> UInt64Array:
    return np.asarray(table[name].to_numpy(), np.uint64)
