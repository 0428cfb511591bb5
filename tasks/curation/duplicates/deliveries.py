"""Incremental deduplication: each delivery of new documents is compared with a stored index of all earlier deliveries.

The index has one folder per delivery: a table of band keys and exact hashes, and a table of shingle sets to verify
candidates. Earlier texts are neither read nor changed. A delivery is compared only with those before it, so that adding
the same delivery again changes nothing.
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
from tasks.files import read_json, version_problem, with_version, write_json

MANIFEST = "delivery.json"  # written last: a folder without it was left by a killed run and does not count
NO_ROW = np.iinfo(np.int64).max  # greater than any row, so that np.minimum replaces it

_SETS_SCHEMA = pa.schema([pa.field("shingles", pa.large_list(pa.uint64()), nullable=False)])


@dataclass(frozen=True, slots=True)
class IndexedDelivery:
    """A delivery in the index. `number` is its position in time; `content` is a digest of its ids and texts."""

    folder: Path
    number: int
    name: str
    content: str
    contract: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HashedDocuments:
    """New documents in the form in which they are compared. `sets_of` returns the shingle sets of some rows."""

    ids: pa.Array
    hashes: exact.Digests
    banded: minhash.BandedTexts
    sets_of: Callable[[Int32Array], clusters.ShingleSets]

    def content(self) -> str:
        """Return a digest of the ids and texts in this order."""
        return hashlib.sha256("\0".join(self.ids.to_pylist()).encode() + self.hashes.tobytes()).hexdigest()


def deduplicate(
    index: Path, texts: Texts, ids: pa.Array, params: minhash.Params, priority: npt.NDArray[Any], threads: int = 1
) -> ObjectArray:
    """Return for each text the id that it duplicates, None where it is kept: object[n].

    A text that the index has (the same id and exact hash) gets the same result as when it came first. The other texts
    are added to the index as a new delivery. Raises BadInput as `add_delivery`.
    """
    hashes, names = exact.digests(texts), np.array(ids.to_pylist(), object)
    kept_ids, is_new = np.full(len(names), None, object), np.ones(len(names), np.bool_)
    for delivery in _read_comparable(index, params):
        for _, table in _key_tables(delivery):
            # The row among the new texts that has the id of each indexed document, -1 where there is none.
            rows = np.asarray(pc.index_in(table["id"], ids).fill_null(-1).to_numpy())
            indexed_hashes = np.stack([_column(table, "hash_0"), _column(table, "hash_1")], axis=1)
            # An id with another text is another document. Rows of -1 select the last text here, which the first
            # condition undoes.
            same = (rows >= 0) & (indexed_hashes == hashes[rows]).all(axis=1)
            kept_ids[rows[same]], is_new[rows[same]] = table["kept"].to_numpy()[same], False
    if is_new.any():
        mask, new_names = pa.array(is_new), names[is_new]
        # The name follows from the content, so that a killed run repeats its delivery instead of adding another.
        content = hashlib.sha256("\0".join(new_names).encode() + hashes[is_new].tobytes()).hexdigest()
        new_ids, new_texts = ids.filter(mask), texts.filter(mask)
        duplicate_of = add_delivery(index, content[:16], new_texts, new_ids, params, priority[is_new], threads)
        kept_ids[is_new] = np.where(duplicate_of.is_null(), new_names, np.array(duplicate_of.to_pylist(), object))
    # A document that represents itself is no duplicate.
    kept_ids[kept_ids == names] = None
    return kept_ids


def add_delivery(
    index: Path,
    name: str,
    texts: Texts,
    ids: pa.Array,
    params: minhash.Params,
    priority: npt.NDArray[Any],
    threads: int = 1,
) -> pa.Array:
    """Add a delivery to the index. Return for each text the id that it duplicates, null where it is kept: string[n].

    The id may be of this delivery or of an earlier one. If one document of a cluster duplicates an earlier document,
    the whole cluster is dropped; otherwise its best member is kept, as in `minhash.duplicates`. Raises BadInput if the
    index was built with other params, or if an earlier delivery, with which later ones were compared, has changed.
    """
    sets_of = minhash.sets_reader(texts, params)
    banded = minhash.compute_band_keys(texts, params, threads)
    documents = HashedDocuments(ids, exact.digests(texts, threads), banded, sets_of)
    earlier = _read_comparable(index, params)
    # Adding a delivery again replaces it under its own number, and compares it with those before that number only.
    number = _delivery_number(earlier, name, documents.content())
    # First find the clusters within the delivery, then the earlier document that each cluster duplicates.
    roots = cluster_roots(documents, byte_lengths(texts), params)
    best_rows, _ = clusters.representatives(roots, ranks(priority, byte_lengths(texts), ids))
    own_rows = np.arange(len(best_rows))
    kept_ids = np.array(ids.to_pylist(), object)[np.where(best_rows < 0, own_rows, best_rows)]
    # From the latest to the earliest delivery, so that of several duplicates the earliest document wins.
    for delivery in reversed([delivery for delivery in earlier if delivery.number < number]):
        first_rows = np.full(len(roots), NO_ROW, np.int64)  # by root: the first duplicate of any member of the cluster
        np.minimum.at(first_rows, roots, _first_duplicates(documents, delivery, params.threshold))
        # The earlier document may be a duplicate itself: the id that was kept in its place is the result.
        has_duplicate = first_rows[roots] < NO_ROW
        kept_ids[has_duplicate] = _kept_ids(delivery)[first_rows[roots][has_duplicate]]
    _store(index / f"{number:05d}", name, documents, kept_ids, params)
    duplicate_of = [None if own == kept else kept for own, kept in zip(ids.to_pylist(), kept_ids, strict=True)]
    return pa.array(duplicate_of, pa.string())


def read_deliveries(index: Path) -> list[IndexedDelivery]:
    """Return the complete deliveries of the index, the oldest first. Raises BadInput as `_check_version`."""
    manifests = [(path.parent, _check_version(read_json(path), path)) for path in sorted(index.glob(f"*/{MANIFEST}"))]
    return [
        IndexedDelivery(folder, int(folder.name), body["name"], body["content"], body["contract"])
        for folder, body in manifests
    ]


def cluster_roots(documents: HashedDocuments, num_bytes: Int64Array, params: minhash.Params) -> Int32Array:
    """Return the roots of the clusters within a delivery: int32[n], equal within a cluster.

    A cluster consists of near-duplicates and of equal texts, including texts that are too short for a shingle.
    """
    banded = documents.banded
    near = clusters.connect_duplicates(
        banded.keys, banded.has_shingles, num_bytes, documents.sets_of, params.threshold, params.max_bucket
    )
    groups = np.unique(documents.hashes.view("V16").ravel(), return_inverse=True)[1].ravel()
    # The near clusters and the groups of equal texts act as two bands, so that union-find joins both relations.
    keys = np.stack([near.roots.astype(np.uint64), groups.astype(np.uint64)])
    return clusters.connect_candidates(keys, np.ones(len(near.roots), np.bool_))


def _check_version(body: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the manifest of a delivery. Raises BadInput if its schema version cannot be read."""
    if problem := version_problem("deliveries", body, path):
        raise BadInput(
            f"{problem} Start a new index in another folder (curation.deliveries in params.yaml) and run the stage "
            "curation again."
        )
    return body


def check_contract(indexed: dict[str, Any], current: dict[str, Any], location: str, kind: str) -> None:
    """Raises BadInput if the index at `location`, a folder or database (`kind`), was built with other settings.

    Bands and rows are among them, also where they follow from the threshold: keys of other bands are never equal.
    """
    changed = [key for key, value in current.items() if indexed.get(key) != value]
    if not changed:
        return
    old_values, new_values = (
        ", ".join(f"{key} {contract.get(key)!r}" for key in changed) for contract in (indexed, current)
    )
    settings = {
        key: indexed[key] for key in ("bands", "rows", "num_permutations", "shingle_size", "seed") if key in indexed
    }
    fix = f"Start a new index in another {kind} (curation.deliveries in params.yaml)"
    if all(key in settings for key in changed):
        values = ", ".join(f"{key}: {value}" for key, value in settings.items() if key in {"bands", "rows", *changed})
        fix += f", or keep this one by setting curation.minhash to {{ {values} }}"
    raise BadInput(f"The index of deliveries in {location} was built with {old_values}, not {new_values}. {fix}.")


def _read_comparable(index: Path, params: minhash.Params) -> list[IndexedDelivery]:
    """Return the deliveries of the index. Raises BadInput if one was built with other settings."""
    deliveries = read_deliveries(index)
    for delivery in deliveries:
        check_contract(delivery.contract, params.contract(), str(index), "folder")
    return deliveries


def _delivery_number(deliveries: list[IndexedDelivery], name: str, content: str) -> int:
    """Return the number of the delivery `name`: its number in the index, or the next one."""
    for delivery in deliveries:
        if delivery.name == name:
            # Only the latest delivery may be replaced: later ones have been compared with each of the others.
            if delivery.content != content and delivery is not deliveries[-1]:
                raise BadInput(
                    f"The delivery {name!r} has changed since {deliveries[-1].name!r} was compared with it "
                    f"(see {delivery.folder}). Deliver the new documents under a new name."
                )
            return delivery.number
    return deliveries[-1].number + 1 if deliveries else 0


def _first_duplicates(documents: HashedDocuments, delivery: IndexedDelivery, threshold: float) -> Int64Array:
    """Return for each new document the first row of an earlier delivery that it duplicates, NO_ROW if there is none."""
    first_rows = np.full(len(documents.ids), NO_ROW, np.int64)
    pairs = [np.empty((0, 2), np.int64)]
    for start, table in _key_tables(delivery):
        # Join by half of the 128 bits, then compare the other half.
        new_rows, old_rows = _equal_pairs(documents.hashes[:, 0], _column(table, "hash_0"))
        same = documents.hashes[new_rows, 1] == _column(table, "hash_1")[old_rows]
        np.minimum.at(first_rows, new_rows[same], start + old_rows[same])
        has_shingles = _column(table, "signed") > 0
        for band, keys in enumerate(documents.banded.keys):
            new_rows, old_rows = _equal_pairs(keys, _column(table, f"band_{band}"))
            comparable = documents.banded.has_shingles[new_rows] & has_shingles[old_rows]
            pairs.append(np.stack([new_rows[comparable], start + old_rows[comparable]], axis=1))
    # A pair can be equal in several bands, but is verified once.
    candidates = np.unique(np.concatenate(pairs), axis=0)
    candidates = candidates[candidates[:, 1] < first_rows[candidates[:, 0]]]  # others cannot improve the result
    for new_row, old_row in _verified_pairs(documents, delivery, candidates, threshold):
        first_rows[new_row] = min(first_rows[new_row], old_row)
    return first_rows


def _equal_pairs(new: UInt64Array, old: UInt64Array) -> tuple[Int64Array, Int64Array]:
    """Return the rows of all pairs of equal keys: (rows of `new`, rows of `old`). This is a sort-merge join."""
    order = np.argsort(new, kind="stable")
    starts = np.searchsorted(new[order], old, "left")
    counts = np.searchsorted(new[order], old, "right") - starts
    old_rows = np.repeat(np.arange(len(old)), counts)
    # The position of each pair among the pairs of its old row: 0, 1 ... count - 1.
    offsets = np.arange(len(old_rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(starts, counts) + offsets], old_rows


def _verified_pairs(
    documents: HashedDocuments, delivery: IndexedDelivery, pairs: Int64Array, threshold: float
) -> Iterator[tuple[int, int]]:
    """Yield the (new row, old row) of `pairs`, int64[m, 2], whose Jaccard similarity is at least `threshold`."""
    new_rows = np.unique(pairs[:, 0])
    hashes, offsets = documents.sets_of(new_rows.astype(np.int32))
    positions = {row: i for i, row in enumerate(new_rows.tolist())}
    old_sets = _read_sets(delivery, np.unique(pairs[:, 1]))
    for new_row, old_row in pairs.tolist():
        i = positions[new_row]
        if clusters.jaccard(hashes[offsets[i] : offsets[i + 1]], old_sets[old_row]) >= threshold:
            yield new_row, old_row


def _read_sets(delivery: IndexedDelivery, rows: Int64Array) -> dict[int, UInt64Array]:
    """Read the shingle sets of some rows of a delivery, one shard at a time."""
    sets, start = {}, 0
    for table in tables.shards(delivery.folder / "sets"):
        shard_rows = rows[(rows >= start) & (rows < start + table.num_rows)]
        lists = table["shingles"].take(pa.array(shard_rows - start))
        for row, shingles in zip(shard_rows.tolist(), lists, strict=True):
            sets[row] = np.array(shingles.values.to_numpy(zero_copy_only=False), np.uint64)
        start += table.num_rows
    return sets


def _store(folder: Path, name: str, documents: HashedDocuments, kept_ids: ObjectArray, params: minhash.Params) -> None:
    """Write the tables of a delivery, and its manifest last."""
    # Left by a killed run, or the latest delivery, which is replaced.
    if folder.exists():
        shutil.rmtree(folder)
    columns = {"id": documents.ids, "kept": pa.array(kept_ids.tolist(), pa.string())}
    columns |= {f"hash_{i}": pa.array(np.ascontiguousarray(documents.hashes[:, i])) for i in range(2)}
    columns |= {"signed": pa.array(documents.banded.has_shingles.astype(np.uint64))}
    columns |= {f"band_{i}": pa.array(keys) for i, keys in enumerate(documents.banded.keys)}
    table = pa.table(columns)
    tables.write(folder / "keys", table.schema, [table])
    with tables.Writer(folder / "sets", _SETS_SCHEMA) as writer:
        # Shingle sets take up to four times the size of the texts: write them chunk by chunk.
        for start in range(0, len(kept_ids), CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, len(kept_ids)), dtype=np.int32)
            hashes, offsets = documents.sets_of(rows)
            lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(hashes))
            writer.add_table(pa.table({"shingles": lists}, schema=_SETS_SCHEMA))
    body = {"name": name, "content": documents.content(), "contract": params.contract(), "documents": len(kept_ids)}
    write_json(folder / MANIFEST, with_version("deliveries", body))


def _key_tables(delivery: IndexedDelivery) -> Iterator[tuple[int, pa.Table]]:
    """Yield the shards of a delivery's keys, each with the row of its first document."""
    start = 0
    for table in tables.shards(delivery.folder / "keys"):
        yield start, table
        start += table.num_rows


def _kept_ids(delivery: IndexedDelivery) -> ObjectArray:
    return np.array(tables.read(delivery.folder / "keys", ["kept"])["kept"].to_pylist(), object)


def _column(table: pa.Table, name: str) -> UInt64Array:
    return np.asarray(table[name].to_numpy(), np.uint64)
