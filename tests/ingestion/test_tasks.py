"""Ingestion as a whole on small sources: every record is counted once, in one table, in the split of its group."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tasks import tables
from tasks.documents import SPLITS, Document
from tasks.errors import BadInput, NothingLeft
from tasks.files import read_json
from tasks.ingestion import record_writer, splits, tasks
from tasks.ingestion.record_writer import RecordWriter
from tasks.reports import Timings

DOCUMENTS = ['{"text": "one"}', "rubbish", '{"text": "two"}', '{"body": "three"}', '{"text": "four"}']
CONVERSATIONS = ['{"prompt": "a", "completion": "b"}', '{"prompt": "a"}']
PREFERENCES = ['{"prompt": "a", "answers": ["best", "good", "bad"]}', '{"prompt": "a", "chosen": "b", "rejected": "c"}']


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for name, rows in {"d": DOCUMENTS, "c": CONVERSATIONS, "p": PREFERENCES}.items():
        (tmp_path / f"raw/{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


SOURCES: dict[str, Any] = {
    "mine": {"source": "jsonl", "paths": "raw/d.jsonl"},
    "talk": {"source": "jsonl", "paths": ["raw/c.jsonl"], "kind": "conversations"},
    "taste": {"source": "jsonl", "paths": "raw/p.jsonl", "kind": "preferences"},
    "numbers": {"num_conversations": 300, "num_preferences": 40},
}


def ingest(sources: dict[str, Any], data: Path = Path("data"), **shares: Any) -> RecordWriter:
    params, timings = tasks.Params(sources=sources, **shares), Timings("ingestion", Path("timings"))
    with tasks.open_tables(params, data) as writer:
        for name, source in params.sources.items():
            tasks.ingest.fn(name, source, writer, timings)
    tasks.report.fn(writer, params, data, timings)
    return writer


def test_read_is_kept_and_quarantined(world: Path) -> None:
    ingest(SOURCES)
    counts = read_json(Path("data/reports/ingestion.json"))["counts"]
    # Of 349 rows, the ranked list of three answers gives three preferences.
    expected = {"documents": 3, "conversations": 301, "preferences": 44}
    assert counts == expected | {"read": 349, "kept": 346, "quarantined": 3, "skipped": 0, "files_not_read": 0}
    for kind, (folder, _) in record_writer.TABLES.items():
        assert tables.read(Path("data") / folder).num_rows == counts[kind]


def test_the_report_counts_by_source_split_and_reason(world: Path) -> None:
    writer = ingest(SOURCES)
    assert writer.num_by_reason == {
        ("mine", "invalid_json"): 1,
        ("mine", "missing_field"): 1,
        ("talk", "missing_field"): 1,
    }
    rows = Path("data/reports/ingestion/sources.csv").read_text().splitlines()
    assert rows[:2] == [
        "source,read,kept,quarantined,skipped,documents,conversations,preferences",
        "mine,5,3,2,0,3,0,0",
    ]
    assert Path("data/reports/ingestion/quarantine.csv").read_text().splitlines()[1:] == [
        "mine,invalid_json,1",
        "mine,missing_field,1",
        "talk,missing_field,1",
    ]


def test_the_report_counts_what_was_changed_or_dropped_in_records(world: Path) -> None:
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    chats = [[question, answer], [question, question, answer], [question, answer, question]]
    Path("raw/c.jsonl").write_text("\n".join(json.dumps({"messages": messages}) for messages in chats))
    labeled = [{"prompt": "q", "completion": text, "label": text == "good"} for text in ("bad", "good", "worse")]
    Path("raw/p.jsonl").write_text("\n".join(map(json.dumps, labeled)))
    ingest({"talk": SOURCES["talk"], "taste": SOURCES["taste"]})
    assert Path("data/reports/ingestion/changes.csv").read_text().splitlines() == [
        "source,change,times",
        "talk,a last message that the assistant does not answer is dropped,1",
        "talk,consecutive messages of one role (user) are joined,1",
        "taste,a good and a bad answer to one prompt (KTO rows) are joined to a pair,1",
    ]
    counts = read_json(Path("data/reports/ingestion.json"))["counts"]
    assert (counts["quarantined"], counts["preferences"]) == (0, 2)  # a pair, and an answer without a counterpart


def test_quarantine_says_where(world: Path) -> None:
    ingest(SOURCES)
    first = tables.read(Path("data/documents/quarantine")).to_pylist()[0]
    assert (first["source"], first["file"], first["line"], first["offset"]) == ("mine", "raw/d.jsonl", 2, 16)


def test_ids_are_unique_over_sources(world: Path) -> None:
    ingest({"a": SOURCES["mine"], "b": SOURCES["mine"]})
    ids = tables.read(Path("data/documents"))["id"].to_pylist()
    assert ids == [f"{s}/raw/d.jsonl:{n}" for s in "ab" for n in (1, 3, 5)]


def test_the_same_input_gives_the_same_bytes(world: Path) -> None:
    ingest(SOURCES, Path("first"))
    ingest(SOURCES, Path("second"))
    for path in sorted(Path("first").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (Path("second") / path.relative_to("first")).read_bytes()


def test_a_group_is_in_one_split_in_every_table(world: Path) -> None:
    ingest(SOURCES, validation_share=0.2, test_share=0.2)
    splits_of_group: dict[str, set[str]] = {}
    for folder in ("conversations/raw", "preferences/raw"):
        for row in tables.read(Path("data") / folder).to_pylist():
            splits_of_group.setdefault(row["group"], set()).add(row["split"])
    assert {len(names) for names in splits_of_group.values()} == {1}
    assert set().union(*splits_of_group.values()) == set(SPLITS)


def test_split_shares_and_seed() -> None:
    groups = [f"group {i}" for i in range(4000)]
    chosen = [splits.choose_split(g, 0, 0.1, 0.2) for g in groups]
    assert [round(chosen.count(s) / 4000, 1) for s in SPLITS] == [0.7, 0.1, 0.2]
    assert chosen == [splits.choose_split(g, 0, 0.1, 0.2) for g in groups]
    assert chosen != [splits.choose_split(g, 1, 0.1, 0.2) for g in groups]
    assert {splits.choose_split(g, 0, 0, 0) for g in groups} == {"train"}


def test_a_given_split_is_kept(world: Path) -> None:
    ingest({"mine": {**SOURCES["mine"], "split": "test"}})
    assert set(tables.read(Path("data/documents"))["split"].to_pylist()) == {"test"}


def test_our_own_tables_can_be_read_again(world: Path) -> None:
    ingest(SOURCES, Path("first"), validation_share=0.3)
    parquet = {"source": "parquet", "fields": {"group": "group", "split": "split"}}
    ingest({"c": {**parquet, "paths": "first/conversations/raw", "kind": "conversations"}}, Path("second"))
    columns = ["messages", "group", "split", "metadata"]
    first, second = (
        tables.read(Path(f) / "conversations/raw").select(columns).to_pylist() for f in ("first", "second")
    )
    for row in (*first, *second):
        row["metadata"] = {k: v for k, v in json.loads(row["metadata"]).items() if k != "id"}
    assert first == second


def test_a_missing_path_is_named(world: Path) -> None:
    with pytest.raises(BadInput, match=r"raw/e\.jsonl does not exist"):
        ingest({"mine": {"source": "jsonl", "paths": "raw/e.jsonl"}})


def test_a_folder_without_such_files_is_named(world: Path) -> None:
    with pytest.raises(BadInput, match=r"raw contains no file to read\. Expected a name that ends in \.parquet"):
        ingest({"mine": {"source": "parquet", "paths": "raw"}})


def test_a_source_without_records_is_named(world: Path) -> None:
    with pytest.raises(BadInput, match=r"source 'numbers'.* has no record"):
        ingest({"numbers": {"num_conversations": 0, "num_preferences": 0}})


def test_when_everything_is_quarantined_the_reasons_are_named_and_the_quarantine_is_complete(world: Path) -> None:
    with pytest.raises(
        NothingLeft,
        match=r"All 2 records of the source 'mine'.*missing_field 2.*c\.jsonl, line 1: There is no field 'text'",
    ):
        ingest({"mine": {"source": "jsonl", "paths": "raw/c.jsonl"}})
    assert tables.read(Path("data/documents/quarantine")).num_rows == 2
    with pytest.raises(BadInput, match="not a complete table"):
        tables.manifest(Path("data/documents"))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"jsnol": {}}, "no source 'jsnol'; did you mean 'jsonl'"),
        ({"numbers": {"maximum": 30}}, "unknown key 'maximum'; did you mean 'max'"),
        ({"numbers": {"max": 3}}, "greater than or equal to 20"),
        ({"mine": {"source": "jsonl"}}, "paths"),
        ({"mine": 3}, "valid dictionary"),
        ({}, "at least 1"),
    ],
)
def test_wrong_params_are_refused(sources: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tasks.Params(sources=sources)


def test_params_survive_being_written_down() -> None:
    params = tasks.Params(sources=SOURCES)
    assert tasks.Params(**params.model_dump()) == params
    assert tasks.Params(**json.loads(params.model_dump_json())) == params


def test_large_rows_do_not_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer._BatchedTable, "BATCH_CHARACTERS", 1000)
    with RecordWriter(tmp_path, lambda group: "train") as writer:
        for index in range(10):
            writer.add("s", Document(str(index), "x" * 400, "g"))
            assert len(writer._tables["documents"]._rows) < 3
    assert pq.read_table(tmp_path / "documents/00000.parquet").num_rows == 10
