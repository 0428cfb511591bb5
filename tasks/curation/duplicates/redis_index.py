"""The index of `deliveries.py` in Redis instead of a folder. It gives the same results, for one delivery at a time.

The band tables are those of `datasketch.MinHashLSH` on Redis. Further tables hold the shingle sets to verify
candidates, the result for each document, and the order in which the documents came. A delivery counts when its last
write, a single transaction, is complete.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.addresses import reveal
from tasks.curation.arrays import ObjectArray
from tasks.curation.duplicates import clusters, deliveries, exact, minhash
from tasks.curation.duplicates.deliveries import NO_ROW, HashedDocuments
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text.words import Texts, byte_lengths
from tasks.errors import BadInput
from tasks.files import SCHEMA_VERSION, SCHEMAS, version_problem

NAME = b"athanor"  # the prefix of all keys in the database
BATCH_DOCUMENTS = 1024  # documents per request
DIGEST_BYTES = 16  # a document's key is its exact hash, followed by its id
ORDER_BYTES = 8  # an entry of the table `exact` is the document's position in time, followed by its key


def deduplicate(
    url: str, texts: Texts, ids: pa.Array, params: minhash.Params, priority: npt.NDArray[Any], threads: int = 1
) -> ObjectArray:
    """Return for each text the id that it duplicates, None where it is kept, as `deliveries.deduplicate`.

    Raises BadInput if Redis cannot be reached, or if the index was built with other params.
    """
    with _connect(url) as (redis, options):
        index = _Index(redis, options, params)
        hashes, names = exact.digests(texts, threads), np.array(ids.to_pylist(), object)
        keys = [digest.tobytes() + name.encode() for digest, name in zip(hashes, names.tolist(), strict=True)]
        indexed_ids = index.kept_ids(keys)
        kept_ids = np.array([None if name is None else name.decode() for name in indexed_ids], object)
        new_rows = np.array([row for row, name in enumerate(indexed_ids) if name is None], np.int64)
        if len(new_rows):
            new_texts = texts.take(pa.array(new_rows))
            banded = minhash.compute_band_keys(new_texts, params, threads)
            sets_of = minhash.sets_reader(new_texts, params)
            documents = HashedDocuments(ids.take(pa.array(new_rows)), hashes[new_rows], banded, sets_of)
            new_keys = [keys[row] for row in new_rows.tolist()]
            kept_ids[new_rows] = index.add(documents, new_keys, new_texts, priority[new_rows])
        kept_ids[kept_ids == names] = None
        return kept_ids


class _Index:
    """The tables in Redis: the bands of `MinHashLSH`, and hashes from document keys to kept ids, orders and sets.

    The table `exact` has the exact hash alone as its key, and the first document with that hash as its value.
    """

    def __init__(self, redis: Any, options: dict[str, Any], params: minhash.Params) -> None:
        from datasketch import MinHashLSH

        self._redis, self._params = redis, params
        # SETNX writes the contract of the first delivery only, also if two start at once.
        version_key = NAME + b":" + SCHEMA_VERSION.encode()
        if redis.setnx(NAME + b":contract", json.dumps(params.contract(), sort_keys=True)):  # a new index
            redis.set(version_key, SCHEMAS["deliveries"].version)
        version = int(redis.get(version_key) or 0)
        if problem := version_problem("deliveries", {SCHEMA_VERSION: version}, Path("the database")):
            raise BadInput(
                f"{problem} Start a new index in another database (curation.deliveries in params.yaml) and run the "
                "stage curation again."
            )
        contract = json.loads(redis.get(NAME + b":contract"))
        deliveries.check_contract(contract, params.contract(), "Redis", "database")
        storage = {"type": "redis", "basename": NAME, "redis": options}
        self._lsh = MinHashLSH(
            num_perm=params.signature_size(), params=params.banding(), storage_config=storage, prepickle=False
        )

    def kept_ids(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the id that represents each document, None for documents that the index does not have."""
        return self._values("kept", keys)

    def add(
        self, documents: HashedDocuments, keys: list[bytes], texts: Texts, priority: npt.NDArray[Any]
    ) -> ObjectArray:
        """Add new documents. Return the id that represents each of them: object[n]."""
        roots = deliveries.cluster_roots(documents, byte_lengths(texts), self._params)
        # As in `deliveries.add_delivery`: the clusters within the delivery, then the first indexed document of each
        # cluster.
        best_rows, _ = clusters.representatives(roots, ranks(priority, byte_lengths(texts), documents.ids))
        own_rows = np.arange(len(best_rows))
        kept_ids = np.array(documents.ids.to_pylist(), object)[np.where(best_rows < 0, own_rows, best_rows)]
        minhashes = self._minhashes(documents, texts)
        # By root: the order of the first indexed document that a member of the cluster duplicates.
        first_orders, key_of_order = np.full(len(roots), NO_ROW, np.int64), {}
        for row, key, order in self._duplicates(documents, keys, minhashes):
            first_orders[roots[row]] = min(first_orders[roots[row]], order)
            key_of_order[order] = key
        rows = np.flatnonzero(first_orders[roots] < NO_ROW)
        indexed_ids = self.kept_ids([key_of_order[order] for order in first_orders[roots[rows]].tolist()])
        kept_ids[rows] = [name.decode() for name in indexed_ids if name is not None]
        self._write(documents, keys, minhashes, kept_ids)
        return kept_ids

    def _minhashes(self, documents: HashedDocuments, texts: Texts) -> list[Any]:
        """Return datasketch's MinHash of each document, None for a document without shingles."""
        from datasketch import MinHash

        settings = {"num_perm": self._params.signature_size(), "seed": self._params.seed, "scheme": "affine32"}
        template = MinHash(**settings)  # computing the permutations is slow: all documents share them
        signatures = minhash.signatures(texts, self._params)
        return [
            MinHash(hashvalues=values, permutations=template.permutations, **settings) if has_shingles else None
            for values, has_shingles in zip(signatures, documents.banded.has_shingles.tolist(), strict=True)
        ]

    def _duplicates(
        self, documents: HashedDocuments, keys: list[bytes], minhashes: list[Any]
    ) -> Iterator[tuple[int, bytes, int]]:
        """Yield (new row, key of an indexed document, its order) of all pairs that duplicate each other."""
        # Equal texts, which include texts without shingles.
        equal = self._values("exact", [key[:DIGEST_BYTES] for key in keys])
        yield from (
            (row, entry[ORDER_BYTES:], int.from_bytes(entry[:ORDER_BYTES], "big"))
            for row, entry in enumerate(equal)
            if entry
        )
        for row, minhashed in enumerate(minhashes):
            candidates = self._lsh.query(minhashed) if minhashed is not None else []
            orders = self._values("order", candidates)
            # Keys without an order are in the bands already, but their delivery was killed before it was complete.
            indexed = [(key, order) for key, order in zip(candidates, orders, strict=True) if order is not None]
            if not indexed:
                continue
            new_set, _ = documents.sets_of(np.array([row], np.int32))
            for (key, order), data in zip(indexed, self._values("sets", [key for key, _ in indexed]), strict=True):
                indexed_set = np.frombuffer(data or b"", np.uint64)
                # The kernel takes writable arrays only, and a buffer of bytes is read-only.
                if clusters.jaccard(new_set, indexed_set.copy()) >= self._params.threshold:
                    yield row, key, int(order)

    def _write(
        self, documents: HashedDocuments, keys: list[bytes], minhashes: list[Any], kept_ids: ObjectArray
    ) -> None:
        """Write bands and sets first. They have no effect before the one transaction that writes the results."""
        with self._lsh.insertion_session() as session:
            for key, minhashed in zip(keys, minhashes, strict=True):
                if minhashed is not None:
                    session.insert(key, minhashed, check_duplication=False)
        for start in range(0, len(keys), BATCH_DOCUMENTS):
            rows = np.arange(start, min(start + BATCH_DOCUMENTS, len(keys)), dtype=np.int32)
            hashes, offsets = documents.sets_of(rows)
            sets = {keys[row]: hashes[offsets[i] : offsets[i + 1]].tobytes() for i, row in enumerate(rows.tolist())}
            self._redis.hset(NAME + b":sets", mapping=sets)
        first_order = self._redis.hlen(NAME + b":kept")
        transaction = self._redis.pipeline(transaction=True)
        for order, (key, name) in enumerate(zip(keys, kept_ids.tolist(), strict=True), start=first_order):
            transaction.hset(NAME + b":kept", key, name)
            transaction.hset(NAME + b":order", key, order)
            # HSETNX: of several documents with equal text, the first one remains.
            transaction.hsetnx(NAME + b":exact", key[:DIGEST_BYTES], order.to_bytes(ORDER_BYTES, "big") + key)
        transaction.execute()

    def _values(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        """Return the value of each key in one of the tables, None where there is none."""
        name, values = NAME + b":" + table.encode(), list[bytes | None]()
        for start in range(0, len(keys), BATCH_DOCUMENTS):
            values += self._redis.hmget(name, keys[start : start + BATCH_DOCUMENTS])
        return values


@contextmanager
def _connect(url: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield a client, and the options to create another one. Raises BadInput if Redis cannot be reached."""
    try:
        import redis
    except ImportError as error:
        raise BadInput(f"curation.deliveries is {url}, which needs the package redis: pip install redis") from error
    try:
        options: dict[str, Any] = redis.connection.parse_url(reveal(url))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise BadInput(f"curation.deliveries is {url}, which is no address of Redis: {error}") from error
    try:
        with redis.Redis(**options) as client:
            client.ping()
            yield client, options
    except redis.exceptions.RedisError as error:
        raise BadInput(
            f"The index of deliveries at {url} cannot be used ({error}). Start Redis there, or set curation.deliveries "
            "in params.yaml to a folder instead."
        ) from error
