"""Documents that are encoded one shard per task become the same token files as in this process."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks import tables
from tasks.documents import SCHEMA, Document
from tasks.engine import settings
from tasks.engine.engine import Engine
from tasks.engine.local_engine import LocalEngine
from tasks.tokenization import bpe, document_stream
from tests.tokenization.corpus import SENTENCES


def write_shards(folder: Path, num_shards: int) -> None:
    """Write 12 documents of three splits into shards of equal size; the language of every other one is missing."""
    schema = SCHEMA.append(pa.field("language", pa.string()))
    rows = [
        {
            **Document(str(i), SENTENCES[i % 4], str(i)).row(f"source {i % 2}", split),
            "language": "en" if i % 2 else None,
        }
        for i, split in enumerate(["train", "train", "validation", "test"] * 3)
    ]
    with tables.Writer(folder, schema, shard_bytes=1) as writer:
        for first in range(0, len(rows), len(rows) // num_shards):
            writer.add_table(pa.Table.from_pylist(rows[first : first + len(rows) // num_shards], schema=schema))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_engine_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    source, saved = tmp_path / "curated", tmp_path / "tokenizer"
    write_shards(source, 3)
    tokenizer = bpe.train(SENTENCES, 300, 2)
    bpe.save(saved, tokenizer)
    arguments = tokenizer, saved, source
    expected = document_stream.write_documents(*arguments, tmp_path / "local", tmp_path / "run")

    def make_engine(folder: Path, _workers: int) -> Engine:
        return LocalEngine(folder, workers)

    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setattr(settings, "make_engine", make_engine)
    counts = document_stream.write_documents(*arguments, tmp_path / "engine", tmp_path / "run")
    assert counts == expected
    assert contents(tmp_path / "engine") == contents(tmp_path / "local")
    assert {split: number["num_documents"] for split, number in counts.items()} == {
        "train": 6,
        "validation": 3,
        "test": 3,
    }
    assert not list((tmp_path / "run").iterdir())


def test_another_tokenizer_encodes_again(tmp_path: Path) -> None:
    write_shards(tmp_path / "curated", 2)

    def encode(vocab_size: int) -> Any:
        bpe.save(tmp_path / "tokenizer", bpe.train(SENTENCES, vocab_size, 2))
        engine = LocalEngine(tmp_path / "engine")
        return [
            part.ids.tolist()
            for part in document_stream.encode_on(engine, tmp_path / "tokenizer", tmp_path / "curated")
        ]

    first, second = encode(300), encode(270)
    assert first != second
    assert encode(270) == second
