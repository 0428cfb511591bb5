"""The index in Redis gives the same results as the index in a folder, also after a killed run."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from tasks.curation.duplicates import deliveries, minhash, redis_index
from tasks.errors import BadInput
from tests.curation.duplicates.test_deliveries import MONDAY, PARAMS, TUESDAY, WEDNESDAY, document
from tests.curation.test_curation import PROSE, curate, ingest

fakeredis = pytest.importorskip("fakeredis")


@pytest.fixture
def url() -> Iterator[str]:
    """Start a Redis server in this process, which is reached by a socket."""
    with fakeredis.TcpFakeServer(("127.0.0.1", 0)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


def accept(index: Any, texts: dict[str, str], params: minhash.Params = PARAMS) -> dict[str, str]:
    """Return the dropped ids, each with the id that it duplicates."""
    ids, array = pa.array(list(texts), pa.string()), pa.array(list(texts.values()), pa.large_string())
    deduplicate: Any = redis_index.deduplicate if isinstance(index, str) else deliveries.deduplicate
    duplicate_of = deduplicate(index, array, ids, params, np.zeros(len(texts)))
    return {id: kept for id, kept in zip(texts, duplicate_of.tolist(), strict=True) if kept is not None}


def test_day_by_day_and_again(url: str) -> None:
    days = (MONDAY, {"a": "b"}), (TUESDAY, {"d": "b", "f": "g", "h": "short"}), (WEDNESDAY, {"i": "e", "j": "g"})
    for _ in range(2):
        for texts, dropped in days:
            assert accept(url, texts) == dropped
    assert accept(url, {"a": document(8), "z": document(8, 3)}) == {"a": "z"}  # another text is another document


def test_it_says_what_the_folder_says(url: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = {f"{i:03d}": document(rng.randrange(40), rng.randrange(-1, 120)) for i in range(150)}
    names = list(texts)
    for part in range(0, 150, 30):
        part_texts = {name: texts[name] for name in names[part : part + 30]}
        assert accept(url, part_texts) == accept(tmp_path, part_texts)


def test_a_killed_delivery_leaves_nothing_that_counts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(url, MONDAY)
    pipeline = redis.Redis.pipeline
    monkeypatch.setattr(redis.Redis, "pipeline", interrupt)
    with pytest.raises(KeyboardInterrupt):
        accept(url, TUESDAY)
    monkeypatch.setattr(redis.Redis, "pipeline", pipeline)
    # "j" is kept as well: "g", which it duplicates, was not accepted.
    assert accept(url, WEDNESDAY | {"e": TUESDAY["e"]}) == {"e": "i"}


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_other_params_are_refused(url: str) -> None:
    accept(url, MONDAY)
    with pytest.raises(
        BadInput, match=r"in Redis was built with shingle_size 5, not shingle_size 4\. Start .* another database"
    ):
        accept(url, TUESDAY, minhash.Params(shingle_size=4))


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(BadInput, match=r"redis://127.0.0.1:1/0 cannot be used .* Start Redis there"):
        accept("redis://127.0.0.1:1/0", MONDAY)


def test_the_stage_asks_it(url: str, tmp_path: Path) -> None:
    ingest(tmp_path, {"a": PROSE.format("history"), "b": PROSE.format("boats")})
    assert curate(tmp_path, deliveries=url) == {"a": "", "b": ""}
    ingest(tmp_path, {"near": PROSE.format("history") + " Truly so.", "c": PROSE.format("carpentry")})
    assert curate(tmp_path, report=True, deliveries=url) == {"near": "deliveries.duplicate", "c": ""}
