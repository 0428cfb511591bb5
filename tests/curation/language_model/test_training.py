"""Training a language model from files and tables: what is read, what is held out, the bounds, and the command."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows import language_model
from tasks import documents, tables
from tasks.curation.corpus import CURATED
from tasks.curation.language_model import ngram_model, training
from tasks.curation.language_model.ngram_model import Params
from tasks.errors import BadInput
from tests.curation.language_model.test_ngram_model import CHINESE, ENGLISH, arrow

PARAMS = Params(bits=16)


def text_file(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_table(folder: Path, texts: dict[str, list[str]], split: str = "train") -> Path:
    rows = [
        documents.Document(f"{language}{i}", text, "group").row("source", split)
        | {"language": language, "cluster_size": 1}
        for language, of_language in texts.items()
        for i, text in enumerate(of_language)
    ]
    tables.write(folder, CURATED, [pa.Table.from_pylist(rows, schema=CURATED)])
    return folder


def test_every_format_gives_the_same_model(tmp_path: Path) -> None:
    text = text_file(tmp_path / "a.txt", [*ENGLISH, "", " "])
    lines = [json.dumps({"text": text, "id": 1}) for text in ENGLISH]
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "folder" / "readme.md").write_text("This is not read.")
    table = write_table(tmp_path / "curated", {"zh": CHINESE, "en": ENGLISH})
    models = [training.train_on_paths([path], "en", PARAMS) for path in (text, tmp_path / "folder", table)]
    for model in models:
        assert model.about["texts"] == 192 - 19
        assert model.about["held_out"] == 19
        assert model.bounds == models[0].bounds


def test_held_out_documents_are_not_read(tmp_path: Path) -> None:
    table = write_table(tmp_path / "curated", {"en": ENGLISH}, "test")
    with pytest.raises(BadInput, match="contain no word"):
        training.train_on_paths([table], "en", PARAMS)


def test_the_bounds_are_percentiles_of_texts_that_were_held_out(tmp_path: Path) -> None:
    path = text_file(tmp_path / "zh.txt", CHINESE)
    model = training.train_on_paths([path], "zh", PARAMS)
    held_out = CHINESE[9::10]
    trained = ngram_model.train([arrow([text for text in CHINESE if text not in held_out])], PARAMS, {})
    measured = trained.perplexities(arrow(held_out))
    assert model.bounds == tuple(np.percentile(measured, [30, 60]).tolist())
    counts = np.unique(ngram_model.parts_of(measured, model.bounds), return_counts=True)
    assert [part.tolist() for part in counts] == [["head", "middle", "tail"], [6, 5, 8]]  # of 19 texts


def test_a_value_that_equals_a_bound_belongs_below_it() -> None:
    parts = ngram_model.parts_of(np.array([1.0, 2.0, 2.5, 3.0, 3.1, np.inf, np.nan]), (2.0, 3.0))
    assert parts.tolist() == ["head", "head", "middle", "middle", "tail", "tail", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("few.txt", "one\ntwo\n" * 40, "needs at least 100 texts, but .*few.txt contain about 80 with a word"),
        ("empty.txt", "", "contain no word"),
        ("text.csv", "a", r"text.csv is neither a table nor a file that ends with .txt, .jsonl"),
        ("bad.jsonl", '{"text": "a"}\n{"text"', "bad.jsonl, line 2: not valid JSON"),
        ("field.jsonl", '{"content": "a"}', 'field.jsonl, line 1: expected {"text": "..."}'),
        ("packed.txt.gz", "no gzip", "packed.txt.gz cannot be read"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        training.train_on_paths([tmp_path / name], "en", PARAMS)


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "zh.txt"
    path.write_bytes("\ufeff第一行\n".encode() + "第二行".encode("gb18030"))
    with pytest.raises(BadInput, match=r"zh\.txt, line 2: not UTF-8 \(.*\)\. Convert the file"):
        training.train_on_paths([path], "zh", PARAMS)
    path.write_bytes("\ufeff第一行".encode())
    assert [text for part in training.read_texts(path, "zh") for text in part.to_pylist()] == ["第一行"]


def test_absent_paths_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no file or folder .*nowhere.txt. Name the text"):
        training.train_on_paths([tmp_path / "nowhere.txt"], "en", PARAMS)
    with pytest.raises(BadInput, match=r"contains neither a table nor files that end with"):
        training.train_on_paths([tmp_path], "en", PARAMS)


def test_the_command_writes_a_model_and_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = text_file(tmp_path / "en.txt", ENGLISH), tmp_path / "models" / "en.safetensors"
    arguments = ["--language", "en", "--output", str(output), "--bits", "14", str(path)]
    assert language_model.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "173 texts in en, 1,903 words or characters" in printed
    assert "perplexity of 19 held-out texts: head up to " in printed
    first = output.read_bytes()
    assert language_model.main([*arguments, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["slots"] == 1 << 14
    assert ngram_model.load(output).bounds == (about["max_perplexity_of_head"], about["max_perplexity_of_middle"])
    assert output.read_bytes() == first


def test_the_command_reads_the_curated_documents_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--language", "zh", "--output", "zh.safetensors"]
    assert language_model.main(arguments) == BadInput.exit_code
    assert "There is no file or folder data/curated." in capsys.readouterr().err
    write_table(Path("data/curated"), {"zh": CHINESE, "en": ENGLISH})
    assert language_model.main(arguments) == 0
    assert ngram_model.load(Path("zh.safetensors")).about["texts"] == len(CHINESE) - len(CHINESE) // 10


def test_a_full_table_causes_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = text_file(tmp_path / "en.txt", ENGLISH)
    arguments = ["--language", "en", "--output", str(tmp_path / "en.safetensors"), "--bits", "8", str(path)]
    assert language_model.main(arguments) == 0
    assert "warning: the hash table is full. --bits 10 has four times as many slots." in capsys.readouterr().err
