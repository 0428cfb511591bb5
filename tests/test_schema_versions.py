"""Files state the version of their format; other versions are read or refused as files.SCHEMAS states."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from flows.runtime import spool
from tasks import documents, files, models, reports, tables, tokens
from tasks.curation.duplicates import deliveries, minhash
from tasks.curation.signals.store import Store, WordLists
from tasks.errors import BadInput, UserError
from tasks.files import MANIFEST, SCHEMA_VERSION, SCHEMAS, Schema, read_json, with_version, write_json
from tasks.training.loop import checkpoint
from tests.training import tiny

TEXTS = pa.array(["the first text of the store", "the second text of the store"], pa.large_string())


def write_table(data: Path) -> Path:
    tables.write(data / "curated", documents.SCHEMA, [])
    return data / "curated" / MANIFEST


def write_tokens(data: Path) -> Path:
    tokens.write_ragged(data / "tokens/preferences/train/prompt", [[1, 2]], 10)
    write_json(data / "tokens" / MANIFEST, with_version("tokens", {"vocab_size": 10}))
    return data / "tokens" / MANIFEST


def write_model(data: Path) -> Path:
    models.save(data / "models/sft", tiny.model(), tiny.tokenizer(), {"stage": "sft"})
    return data / "models/sft" / models.ORIGIN


def write_report(data: Path) -> Path:
    reports.Report("sft", counts={"rows": 2}).write(data / "reports")
    return data / "reports/sft.json"


def write_delivery(data: Path) -> Path:
    ids = pa.array(["a", "b"])
    deliveries.add_delivery(data / "index", "monday", TEXTS, ids, minhash.Params(), np.zeros(2))
    return data / "index/00000" / deliveries.MANIFEST


WRITERS: dict[str, Callable[[Path], Path]] = {
    "table": write_table,
    "tokens": write_tokens,
    "model": write_model,
    "report": write_report,
    "deliveries": write_delivery,
}
READERS: dict[str, Callable[[Path], object]] = {
    "table": lambda data: tables.read(data / "curated"),
    "tokens": lambda data: tokens.read_ragged(data / "tokens/preferences/train/prompt"),
    "model": lambda data: models.load_causal(data / "models/sft"),
    "report": lambda data: reports.read(data / "reports/sft.json"),
    "deliveries": lambda data: deliveries.read_deliveries(data / "index"),
}
STAGES = {"table": "curation", "tokens": "tokenization", "model": "sft", "report": "sft", "deliveries": "curation"}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_states_its_version_and_other_versions_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = WRITERS[kind](tmp_path)
    version = SCHEMAS[kind].version
    assert read_json(path)[SCHEMA_VERSION] == version
    READERS[kind](tmp_path)
    monkeypatch.setitem(SCHEMAS, kind, Schema(version + 1, oldest=version))
    READERS[kind](tmp_path)
    newer, older = Schema(version + 1, oldest=version + 1), Schema(version - 1, oldest=0)
    for schema, age in ((newer, "an older"), (older, "a newer")):
        monkeypatch.setitem(SCHEMAS, kind, schema)
        with pytest.raises(UserError, match=rf"{path.name} was written by {age} version.* stage {STAGES[kind]} again"):
            READERS[kind](tmp_path)


@pytest.mark.parametrize("kind", ["table", "tokens", "report", "deliveries"])
def test_a_file_without_a_version_has_version_0(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    body = read_json(path)
    del body[SCHEMA_VERSION]
    write_json(path, body)
    if SCHEMAS[kind].oldest == 0:
        READERS[kind](tmp_path)
    else:
        with pytest.raises(
            BadInput, match=r"schema version of this report is 0, but .* reads 1\. Run the stage sft again"
        ):
            READERS[kind](tmp_path)


def test_the_keys_of_a_report_do_not_contain_its_version(tmp_path: Path) -> None:
    path = write_report(tmp_path)
    assert reports.read(path) == {"counts": {"rows": 2}}
    assert spool.numbers(read_json(path)) == {"counts/rows": 2}


def test_a_checkpoint_of_another_version_is_named_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.write(tmp_path / "000000001", {"w": torch.ones(2)}, "params")
    assert checkpoint.load_newest(tmp_path, "params") is not None
    monkeypatch.setitem(SCHEMAS, "checkpoint", Schema(2, oldest=2))
    assert checkpoint.load_newest(tmp_path, "other params") is None
    assert "the schema version of this checkpoint is 1, but" in capsys.readouterr().err


def test_signals_of_another_version_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = WordLists({}, {})
    measured = Store(lists, tmp_path).measure(TEXTS)
    assert len(Store(lists, tmp_path)._sorted_low) == 2
    monkeypatch.setitem(SCHEMAS, "signals", Schema(2, oldest=2))
    store = Store(lists, tmp_path)
    assert len(store._sorted_low) == 0
    assert store.measure(TEXTS).table().equals(measured.table())
    assert len(Store(lists, tmp_path)._sorted_low) == 2  # the old file was replaced


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/documents/manifest.json", "ingestion"),
        ("data/documents/quarantine/manifest.json", "ingestion"),
        ("data/conversations/raw/manifest.json", "ingestion"),
        ("data/preferences/curated/manifest.json", "curation"),
        ("data/dropped/manifest.json", "curation"),
        ("data/tokens/manifest.json", "tokenization"),
        ("data/models/mid/athanor.json", "mid"),
        ("data/reports/reward.json", "reward"),
    ],
)
def test_the_message_names_the_stage_to_run_again(path: str, stage: str) -> None:
    advice = files.rerun_advice(Path(path))
    assert advice == f"Run the stage {stage} again (dvc repro --force --single-item {stage})."
    assert files.rerun_advice(Path("elsewhere/manifest.json")) == "Run the stage that writes it again."
