"""Evaluation refuses test data that training may have used, and states the file, the reason and the remedy."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks import tables, tokens
from tasks.curation.corpus import CURATED
from tasks.errors import BadInput
from tasks.evaluation import leakage
from tasks.files import read_json, with_version, write_json
from tests.curation.test_curation import CHINESE, PROSE, curate, ingest
from tests.evaluation import small
from tests.tokenization.test_tasks import tokenize


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small.write_project(tmp_path)


def change(path: Path, **keys: Any) -> None:
    write_json(path, read_json(path) | keys)


def test_compared_test_sets_are_accepted(data: Path) -> None:
    leakage.refuse_leakage(data)


def test_a_changed_test_set_is_refused(data: Path) -> None:
    manifest = data / "tokens/manifest.json"
    test = read_json(manifest)["test"]
    test["sets"]["preferences"] = {"examples": 4, "digest": "new"}
    change(manifest, test=test)
    match = r"manifest.json states 4 examples with digest new, .*curation.json states 3 examples with .*pipeline"
    with pytest.raises(BadInput, match=match):
        leakage.refuse_leakage(data)


def test_a_test_set_that_curation_did_not_compare_is_refused(data: Path) -> None:
    change(
        data / "reports/curation.json", compared_with={"documents": {"test": {"examples": 3, "digest": "documents"}}}
    )
    with pytest.raises(BadInput, match=r"the test conversations .*curation.json states no examples"):
        leakage.refuse_leakage(data)


def test_an_empty_test_set_needs_no_comparison(data: Path) -> None:
    manifest = data / "tokens/manifest.json"
    test = read_json(manifest)["test"]
    test["sets"]["preferences"]["examples"] = 0
    change(manifest, test=test)
    leakage.refuse_leakage(data)


def test_test_tokens_of_another_origin_are_refused(data: Path) -> None:
    tokens.write_stream(data / "tokens/documents/test", small.stream(["something else"]))
    with pytest.raises(BadInput, match=r"documents/test/\S+ is not the file that tokenization wrote"):
        leakage.refuse_leakage(data)


@pytest.mark.parametrize(
    ("path", "body", "match"),
    [
        ("reports/curation.json", with_version("report", {}), "has no `compared_with`.*`contamination` under curation"),
        ("reports/curation.json", None, "curation.json is missing; curation writes it at its end"),
        ("tokens/manifest.json", {}, "does not state what the test tokens were made from"),
        ("tokens/manifest.json", None, "manifest.json is missing; tokenization writes it at its end"),
    ],
)
def test_missing_records_are_refused(data: Path, path: str, body: Any, match: str) -> None:
    (data / path).unlink()
    if body is not None:
        write_json(data / path, body)
    with pytest.raises(BadInput, match=match):
        leakage.refuse_leakage(data)


def test_a_test_document_that_occurs_in_training_is_refused(data: Path) -> None:
    leakage.check_documents(data / "tokens/documents")
    tokens.write_stream(data / "tokens/documents/train", small.stream(["a rose", "it is"]))
    with pytest.raises(BadInput, match="1 of 3 test documents"):
        leakage.refuse_leakage(data)


@pytest.mark.slow
def test_the_records_of_the_real_stages_agree(tmp_path: Path) -> None:
    """The records of the real stages agree; after a test document changes behind curation, they do not."""
    texts = {"train": PROSE.format("history"), "held": CHINESE.format("历史")}
    ingest(tmp_path, texts, {"held": "test"})
    curate(tmp_path, report=True)
    tokenize(tmp_path)
    leakage.check_comparison(tmp_path)

    rows = tables.read(tmp_path / "curated").to_pylist()
    changed = [row | {"text": row["text"] + (" And more." if row["split"] == "test" else "")} for row in rows]
    tables.write(tmp_path / "curated", CURATED, [pa.Table.from_pylist(changed, schema=CURATED)])
    tokenize(tmp_path)
    with pytest.raises(BadInput, match="not compared with the test documents"):
        leakage.check_comparison(tmp_path)

    curate(tmp_path, report=True, contamination=None)
    tokenize(tmp_path)
    with pytest.raises(BadInput, match="has no `compared_with`"):
        leakage.check_comparison(tmp_path)
