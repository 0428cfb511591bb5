"""What the stage promises whatever happens: same result for any shards and order, the same bytes after kill -9, little
in memory, and every document accounted for with every step on.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks import tables
from tasks.curation import tasks
from tasks.reports import Timings
from tests.curation.test_curation import PARAMS, PROSE, TEXTS, curate, ingest, split

MENU = "Home About us Contact Imprint Privacy Terms of service Careers Press Blog Help"
EVERY_STEP: dict[str, Any] = {"repeats": {"unit": "line"}, "rehydration": {"copies": {2: 2}}, "contaminated": "cut"}

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.curation.test_promises import EVERY_STEP, curate
module, name, count, data = sys.argv[1:]
owner = sys.modules[module] if "." not in name else getattr(sys.modules[module], name.split(".")[0])
name, calls, original = name.split(".")[-1], [], getattr(owner, name.split(".")[-1])
def last(*given, **named):
    calls.append(1)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given, **named)
setattr(owner, name, last)
curate(Path(data), report=module == "tasks.reports", deliveries=Path(data) / "index", **EVERY_STEP)
"""


def all_documents() -> dict[str, str]:
    """Several documents for each outcome of curation, some of which share a line."""
    texts = {f"{name} {i}": text + f" {i // 2}" for i in range(4) for name, (text, _) in TEXTS.items()}
    return texts | {f"menu {i}": f"{PROSE.format(f'topic {i}')}\n{MENU}" for i in range(3)} | {"bare": MENU + "."}


def read_results(data: Path, *more: str) -> dict[str, bytes]:
    """The bytes of every file that the next stage or the next run reads."""
    folders = ("curated", "dropped", "index", *more)
    return {str(p.relative_to(data)): p.read_bytes() for f in folders for p in (data / f).rglob("*") if p.is_file()}


def write_inputs(data: Path, shards: int) -> Path:
    ingest(data, all_documents(), {"zh 0": "test", "other 1": "validation"})
    split(data / "documents", shards)
    return data


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_inputs(tmp_path_factory.mktemp("undisturbed"), 3)
    curate(data, report=True, deliveries=data / "index", **EVERY_STEP)
    return data


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("index", [False, True])
def test_shards_and_order_change_nothing_with_every_step_on(tmp_path: Path, shards: int, index: bool) -> None:
    results = []
    for name, some in {
        "one": all_documents(),
        "many": dict(random.Random(shards).sample(sorted(all_documents().items()), 40)),
    }.items():
        data = tmp_path / name
        ingest(data, some, {"zh 0": "test", "other 1": "validation"})
        split(data / "documents", shards if name == "many" else 1)
        outcomes = curate(data, **EVERY_STEP, deliveries=tmp_path / name / "index" if index else None)
        kept = {row["id"]: row["text"] for row in tables.read(data / "curated").to_pylist()}
        dropped = {
            row["id"]: (row["reason"], row["duplicate_of"])
            for row in tables.read(data / "dropped/documents").to_pylist()
        }
        results.append((outcomes, kept, dropped))
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        # The signals of one shard are stored, those of the next are not.
        ("tasks.curation.signals.store", "measure", 2),
        ("tasks.curation.duplicates.deliveries", "write_json", 1),  # the index has its tables, and no mark
        ("tasks.tables", "Writer._write_shard", 4),  # curated is whole, dropped is not
        ("tasks.reports", "write_json", 1),  # all but the report
    ],
)
def test_killed_and_run_again_it_writes_the_same_bytes(
    tmp_path: Path, undisturbed: Path, module: str, name: str, call: int
) -> None:
    killed, reports = write_inputs(tmp_path, 3), ["reports"] if module == "tasks.reports" else []
    command = [sys.executable, "-c", KILLED, module, name, str(call), str(killed)]
    process = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert read_results(killed, *reports) != read_results(undisturbed, *reports)
    curate(killed, report=bool(reports), deliveries=killed / "index", **EVERY_STEP)
    assert read_results(killed, *reports) == read_results(undisturbed, *reports)


def test_in_memory_are_signals_not_texts(tmp_path: Path) -> None:
    """16 MB of text in 8 shards leave less than 1 MB behind, through every step before writing."""
    dice = random.Random(0)
    words = [f"{dice.randrange(1 << 30):x}" for _ in range(20_000)]
    ingest(tmp_path, {str(i): " ".join(dice.choices(words, k=30_000)) for i in range(64)})
    split(tmp_path / "documents", 8)
    params, timings = tasks.Params(**{**PARAMS, "filters": [], **EVERY_STEP}), Timings("curation", tmp_path / "timings")
    before = pa.total_allocated_bytes()
    corpus = tasks.filter_documents.fn(params, tmp_path, timings, tmp_path / "run")
    tasks.deduplicate.fn(corpus, params, timings)
    tasks.remove_repeated_passages.fn(corpus, params, timings)
    tasks.decontaminate.fn(corpus, params, tmp_path, timings)
    assert int(corpus.signals.num_bytes.sum()) > 16_000_000
    assert pa.total_allocated_bytes() - before < 1_000_000
