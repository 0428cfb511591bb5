"""The index of `deliveries` in Redis instead of a folder, for those who have one: same answers, one delivery at a time.

Band tables are those of `datasketch.MinHashLSH` on Redis. Beside them stand shingle sets to verify candidates by, what
became of each document, and in which order they came. A delivery counts when its last write, one transaction, is done.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.curation.arrays import ObjectArray
from tasks.curation.duplicates import clusters, deliveries, exact, minhash
from tasks.curation.duplicates.deliveries import NOBODY, Incoming
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text.words import Texts, byte_lengths
from tasks.errors import BadInput

NAME = b"athanor"  # what all keys begin with
BATCH = 1024  # documents asked about or written at once


def accept(
    url: str, texts: Texts, ids: pa.Array, params: minhash.Params, priority: npt.NDArray[Any], threads: int = 1
) -> ObjectArray:
    """As `deliveries.accept`: for each text the id it duplicates, None if it is kept, as was said when it came first.

    Raises BadInput where Redis cannot be reached, and where other params made the index.
    """
    with _connected(url) as (redis, options):
        index = _Index(redis, options, params)
        hashes, names = exact.digests(texts, threads), np.array(ids.to_pylist(), object)
        keys = [digest.tobytes() + name.encode() for digest, name in zip(hashes, names.tolist(), strict=True)]
        known = index.kept(keys)
        kept = np.array([None if found is None else found.decode() for found in known], object)
        rows = np.array([row for row, found in enumerate(known) if found is None], np.int64)
        if len(rows):
            fresh = texts.take(pa.array(rows))
            sets_of = minhash.sets_from(fresh, params)
            incoming = Incoming(ids.take(pa.array(rows)), hashes[rows], minhash.band(fresh, params, threads), sets_of)
            new_keys = [keys[row] for row in rows.tolist()]
            kept[rows] = index.add(incoming, new_keys, fresh, priority[rows])
        kept[kept == names] = None
        return kept


class _Index:
    """What Redis holds: `lsh`, and hashes by document (exact hash and id), but for `exact`, which is by hash alone."""

    def __init__(self, redis: Any, options: dict[str, Any], params: minhash.Params) -> None:
        from datasketch import MinHashLSH

        self._redis, self._params = redis, params
        contract = json.dumps(params.contract(), sort_keys=True)
        redis.setnx(NAME + b":contract", contract)
        if (was := redis.get(NAME + b":contract").decode()) != contract:
            raise BadInput(
                f"the index of deliveries in Redis was made with {was}, not {contract}. Go back to those params, or "
                "start a new index in another database."
            )
        storage = {"type": "redis", "basename": NAME, "redis": options}
        self._lsh = MinHashLSH(
            num_perm=params.num_permutations, params=params.banding(), storage_config=storage, prepickle=False
        )

    def kept(self, keys: list[bytes]) -> list[bytes | None]:
        """The id that stands for each document; None for those that nobody has accepted."""
        return self._many("kept", keys)

    def add(self, incoming: Incoming, keys: list[bytes], texts: Texts, priority: npt.NDArray[Any]) -> ObjectArray:
        """Add new documents; the id that stands for each."""
        roots = deliveries.clusters_of(incoming, byte_lengths(texts), self._params)
        row, _ = clusters.representatives(roots, ranks(priority, byte_lengths(texts), incoming.ids))
        stands = np.array(incoming.ids.to_pylist(), object)[np.where(row < 0, np.arange(len(row)), row)]
        signed = self._signed(incoming, texts)
        first, whose = np.full(len(roots), NOBODY, np.int64), {}
        for new, old, order in self._met(incoming, keys, signed):
            first[roots[new]] = min(first[roots[new]], order)
            whose[order] = old
        found = np.flatnonzero(first[roots] < NOBODY)
        olds = self.kept([whose[order] for order in first[roots[found]].tolist()])
        stands[found] = [old.decode() for old in olds if old is not None]
        self._write(incoming, keys, signed, stands)
        return stands

    def _signed(self, incoming: Incoming, texts: Texts) -> list[Any]:
        """datasketch's MinHash of each document; None where it has no shingles."""
        from datasketch import MinHash

        about = {"num_perm": self._params.num_permutations, "seed": self._params.seed, "scheme": "affine32"}
        start = MinHash(**about)
        made = minhash.signatures(texts, self._params)
        return [
            MinHash(hashvalues=values, permutations=start.permutations, **about) if signed else None
            for values, signed in zip(made, incoming.banded.signed.tolist(), strict=True)
        ]

    def _met(self, incoming: Incoming, keys: list[bytes], signed: list[Any]) -> Iterator[tuple[int, bytes, int]]:
        """(new row, accepted document, its place in time) of all pairs that duplicate each other."""
        same = self._many("exact", [key[:16] for key in keys])
        yield from ((row, old[8:], int.from_bytes(old[:8], "big")) for row, old in enumerate(same) if old)
        for row, minhashed in enumerate(signed):
            found = self._lsh.query(minhashed) if minhashed is not None else []
            orders = self._many("order", found)
            accepted = [(key, order) for key, order in zip(found, orders, strict=True) if order is not None]
            if not accepted:
                continue
            mine, _ = incoming.sets_of(np.array([row], np.int32))
            for (key, order), other in zip(accepted, self._many("sets", [key for key, _ in accepted]), strict=True):
                theirs = np.frombuffer(other or b"", np.uint64)
                if clusters.jaccard(mine, theirs.copy()) >= self._params.threshold:
                    yield row, key, int(order)

    def _write(self, incoming: Incoming, keys: list[bytes], signed: list[Any], stands: npt.NDArray[Any]) -> None:
        """Bands and sets first, which mean nothing until the one transaction that says what became of whom."""
        with self._lsh.insertion_session() as session:
            for key, minhashed in zip(keys, signed, strict=True):
                if minhashed is not None:
                    session.insert(key, minhashed, check_duplication=False)
        for start in range(0, len(keys), BATCH):
            rows = np.arange(start, min(start + BATCH, len(keys)), dtype=np.int32)
            shingles, ends = incoming.sets_of(rows)
            sets = {keys[row]: shingles[ends[i] : ends[i + 1]].tobytes() for i, row in enumerate(rows.tolist())}
            self._redis.hset(NAME + b":sets", mapping=sets)
        before = self._redis.hlen(NAME + b":kept")
        last = self._redis.pipeline(transaction=True)
        for order, (key, name) in enumerate(zip(keys, stands.tolist(), strict=True), start=before):
            last.hset(NAME + b":kept", key, name)
            last.hset(NAME + b":order", key, order)
            last.hsetnx(NAME + b":exact", key[:16], order.to_bytes(8, "big") + key)
        last.execute()

    def _many(self, name: str, keys: list[bytes]) -> list[bytes | None]:
        where, found = NAME + b":" + name.encode(), list[bytes | None]()
        for start in range(0, len(keys), BATCH):
            found += self._redis.hmget(where, keys[start : start + BATCH])
        return found


@contextmanager
def _connected(url: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A client, and the options to make another by. Raises BadInput where there is no Redis."""
    try:
        import redis
    except ImportError as error:
        raise BadInput(f"curation.deliveries is {url}, which needs the package redis: pip install redis") from error
    try:
        options: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
        with redis.Redis(**options) as client:
            client.ping()
            yield client, options
    except redis.exceptions.RedisError as error:
        raise BadInput(
            f"the index of deliveries at {url} cannot be used ({error}). Start Redis there, or name a folder instead "
            "(curation.deliveries in params.yaml)."
        ) from error
