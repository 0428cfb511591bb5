"""A tokenizer that is trained from counts of words per shard is the one that is trained from the texts."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from tasks import tables
from tasks.conversations import CONVERSATIONS
from tasks.documents import SCHEMA, Document
from tasks.engine import settings
from tasks.engine.engine import Engine
from tasks.engine.local_engine import LocalEngine
from tasks.errors import BadInput, BadParams
from tasks.reports import Timings
from tasks.tokenization import bpe, merge_training, tasks, word_counts
from tests.tokenization.corpus import SENTENCES

TEXTS = [*SENTENCES * 3, "", "naïve café 한국어 👩‍👩‍👧\n\n\t x", "aaaaaaa abababab " * 3, "<|end|> <|pad|>", "x" * 600]


def write_data(data: Path) -> None:
    """Write 40 documents in 4 shards, half of them for training, and 2 conversations."""
    rows = [
        Document(str(i), TEXTS[i % len(TEXTS)], str(i)).row("test", "train" if i % 2 else "validation")
        for i in range(40)
    ]
    with tables.Writer(data / "curated", SCHEMA, shard_bytes=1) as writer:
        for first in range(0, len(rows), 10):
            writer.add_table(pa.Table.from_pylist(rows[first : first + 10], schema=SCHEMA))
    messages = [{"role": "user", "content": "what is the cat"}, {"role": "assistant", "content": "the cat is a cat"}]
    row = {"id": "1", "source": "test", "split": "train", "metadata": "{}", "group": "1", "messages": messages}
    table = pa.Table.from_pylist([{name: row.get(name) for name in CONVERSATIONS.names}] * 2, schema=CONVERSATIONS)
    tables.write(data / "conversations" / "curated", CONVERSATIONS, [table])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def use_engine(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    def make_engine(folder: Path, _workers: int) -> Engine:
        return LocalEngine(folder, workers)

    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setattr(settings, "make_engine", make_engine)


def make(data: Path, params: tasks.Params) -> dict[str, bytes]:
    tasks.make_tokenizer.fn(params, data, Timings("tokenization", data / "timings"), data / "run")
    return contents(data / "tokens" / "tokenizer")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_engine_makes_the_same_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, share: float
) -> None:
    write_data(tmp_path)
    params = tasks.Params(vocab_size=300, share=share)
    expected = make(tmp_path, params)
    use_engine(monkeypatch, workers)
    assert make(tmp_path, params) == expected
    assert not list((tmp_path / "run").iterdir())


def test_the_engine_extends_a_tokenizer_equally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    bpe.save(tmp_path / "given", bpe.train(SENTENCES, 270))
    params = tasks.Params(tokenizer=str(tmp_path / "given"), new_tokens=20)
    expected = make(tmp_path, params)
    use_engine(monkeypatch, 0)
    assert make(tmp_path, params) == expected


def counts_of(texts: list[str]) -> pa.Table:
    counts = word_counts.WordCounts()
    for text in texts:
        counts.add(word_counts._counter(None, ())(pa.array([text], pa.large_string())), 1)
    return counts.table()


def test_words_of_all_texts_are_summed() -> None:
    """The pattern divides "a b", "" and " b b" into a, " b" and " b", " b"."""
    table = counts_of(["a b", "", " b b"])
    assert table.to_pydict() == {"word": [b" b", b"a"], "count": [3, 1]}


@pytest.mark.parametrize("seed", range(5))
def test_merges_are_those_of_the_library(tmp_path: Path, seed: int) -> None:
    """Few letters make many pairs equally frequent, and many tokens that two pairs form."""
    generator = random.Random(seed)
    texts = [" ".join("".join(generator.choices("ab", k=generator.randint(1, 9))) for _ in range(60)) for _ in "1234"]
    bpe.save(tmp_path / "texts", bpe.train(texts, 330, 2))
    bpe.save(tmp_path / "counts", merge_training.train(counts_of(texts), 330, 2))
    assert contents(tmp_path / "counts") == contents(tmp_path / "texts")


def test_too_few_pairs_are_refused_with_the_same_message() -> None:
    texts, messages = ["abab"] * 2, list[str]()
    for train, argument in ((bpe.train, texts), (merge_training.train, counts_of(texts))):
        with pytest.raises(BadParams) as error:
            train(argument, 300)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_no_train_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.write(tmp_path / "curated", SCHEMA, [])
    use_engine(monkeypatch, 0)
    with pytest.raises(BadInput, match="no train text"):
        make(tmp_path, tasks.Params())
