import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks import tables, tokens
from tasks.conversations import CONVERSATIONS, PREFERENCES, UNTRAINED, Conversation, Message, UnpairedAnswer
from tasks.documents import SCHEMA
from tasks.errors import BadInput, NothingLeft
from tasks.files import read_json, sha256
from tasks.reports import Timings
from tasks.tokenization import columns, tasks
from tests.tokenization.small_data import write_curated


def tokenize(data: Path, **changes: Any) -> Any:
    params = tasks.Params(**{"vocab_size": 300, "sequence_length": 64, **changes})
    timings = Timings("tokenization", data / "timings")
    tokenizer = tasks.make_tokenizer.fn(params, data, timings)
    counts = {
        "documents": tasks.encode_documents.fn(tokenizer, data, timings),
        "conversations": tasks.encode_conversations.fn(tokenizer, params, data, timings),
        "preferences": tasks.encode_preferences.fn(tokenizer, data, timings),
        "prompts": tasks.encode_prompts.fn(tokenizer, data, timings),
    }
    tasks.report.fn(params, tokenizer, counts, data, timings)
    return tokenizer


def test_every_record_comes_back_from_the_tokens(tmp_path: Path) -> None:
    write_curated(tmp_path)
    tokenizer = tokenize(tmp_path)
    for split in ("train", "validation", "test"):
        curated = tables.read(tmp_path / "curated").to_pylist()
        texts = [row["text"] for row in curated if row["split"] == split]
        stream = tokens.read_stream(tmp_path / "tokens/documents" / split)
        starts = np.flatnonzero(stream.positions == 0)[1:]
        assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in np.split(stream.ids, starts)] == texts
        pairs = [row for row in tables.read(tmp_path / "preferences/curated").to_pylist() if row["split"] == split]
        folder = tmp_path / "tokens/preferences" / split
        for name in ("chosen", "rejected"):
            ragged = tokens.read_ragged(folder / name)
            assert [tokenizer.decode(ids) for ids in ragged] == [row[name] + "<|end|>" for row in pairs]  # type: ignore[attr-defined]
        assert read_json(folder / "reasons.json") == ["complete"] * len(pairs)


def test_answers_that_the_metadata_excludes_are_not_targets(tmp_path: Path) -> None:
    question: Message = {"role": "user", "content": "say it"}
    answers: list[Message] = [{"role": "assistant", "content": text} for text in ("bad", "good")]
    messages = [question, answers[0], question, answers[1]]
    write_curated(tmp_path)
    row = Conversation("a", messages, "a", {UNTRAINED: [1]}).row("synthetic", "validation")
    with tables.Writer(tmp_path / "conversations/curated", CONVERSATIONS) as conversations:
        conversations.add_row(row)
        conversations.add_row({**row, "id": "b", "split": "train"})
    tokenizer = tokenize(tmp_path)
    stream = tokens.read_stream(tmp_path / "tokens/conversations/validation")
    assert stream.loss_mask is not None
    assert tokenizer.decode(stream.ids[stream.loss_mask == 1]) == "good<|end|>"


def test_every_prompt_is_written_once_with_its_metadata(tmp_path: Path) -> None:
    """Each prompt is in one conversation and in one preference."""
    write_curated(tmp_path)
    tokenizer = tokenize(tmp_path)
    prompts = tokens.read_ragged(tmp_path / "tokens/prompts/train")
    metadata = read_json(tmp_path / "tokens/prompts/train/metadata.json")
    assert len(prompts) == len(metadata) == 16
    assert tokenizer.decode(prompts[0]) == "<|document|><|user|>say 0<|end|><|assistant|>"
    assert metadata[0]["text"] == "say 0"
    assert metadata[0]["reference"] == metadata[0]["answer"]


def test_answers_that_were_judged_alone_are_written_beside_the_pairs(tmp_path: Path) -> None:
    write_curated(tmp_path)
    pairs = tables.read(tmp_path / "preferences/curated").to_pylist()
    prompt: list[Message] = [{"role": "user", "content": "say it alone"}]
    answers = [UnpairedAnswer(text, prompt, text, text == "good", text) for text in ("bad", "good")]
    with tables.Writer(tmp_path / "preferences/curated", PREFERENCES) as preferences:
        for row in (*(answer.row("synthetic", "train") for answer in answers), *pairs):
            preferences.add_row(row)
    tokenizer = tokenize(tmp_path)
    folder = tmp_path / "tokens/preferences/train"
    num_pairs = sum(row["split"] == "train" for row in pairs)
    assert len(tokens.read_ragged(folder / "chosen")) == len(read_json(folder / "lists.json")) == num_pairs
    ragged = tokens.read_ragged(folder / "unpaired/answer")
    assert [tokenizer.decode(ids) for ids in ragged] == ["bad<|end|>", "good<|end|>"]  # type: ignore[attr-defined]
    assert read_json(folder / "unpaired/is_good.json") == [False, True]
    counts = read_json(tmp_path / "tokens/manifest.json")["preferences"]["train"]
    assert (counts["num_pairs"], counts["num_unpaired"]) == (num_pairs, 2)
    # The bad answer is no reference; the good one is.
    metadata = read_json(tmp_path / "tokens/prompts/train/metadata.json")
    assert [about["reference"] for about in metadata if about["text"] == "say it alone"] == ["good"]


def test_counts_and_manifest(tmp_path: Path) -> None:
    write_curated(tmp_path)
    tokenize(tmp_path)
    manifest = read_json(tmp_path / "tokens/manifest.json")
    assert manifest["vocab_size"] == 300
    assert manifest["special"] == {"pad": 0, "document": 1, "end": 5}
    assert manifest["documents"]["train"]["num_documents"] == 16
    counts = manifest["conversations"]["train"]
    stream = tokens.read_stream(tmp_path / "tokens/conversations/train")
    assert counts["num_tokens"] + counts["num_padding"] == counts["num_rows"] * 64 == len(stream.ids)
    assert counts["num_targets"] == stream.loss_mask.sum()
    report = json.loads((tmp_path / "reports/tokenization.json").read_text())
    assert report["counts"]["documents_train_num_documents"] == 16


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_curated(tmp_path / name)
        tokenize(tmp_path / name)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a/tokens").rglob("*") if p.is_file()]
    assert len(files) > 30
    assert all(sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file) for file in files)


def test_too_long_conversations_are_truncated_or_dropped_and_noted(tmp_path: Path) -> None:
    write_curated(tmp_path)
    tokenize(tmp_path, sequence_length=24)
    truncated = read_json(tmp_path / "tokens/manifest.json")["conversations"]["train"]
    assert truncated["num_truncated"] > 0
    assert "notes" in read_json(tmp_path / "reports/tokenization.json")
    tokenize(tmp_path, sequence_length=24, too_long="drop")
    dropped = read_json(tmp_path / "tokens/manifest.json")["conversations"]["train"]
    assert dropped["num_truncated"] == 0
    assert dropped["num_dropped"] + dropped["num_conversations"] == 16


def test_data_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Run curation"):
        tokenize(tmp_path)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    write_curated(tmp_path / "other")
    tokenize(tmp_path / "other")
    tables.write(tmp_path / "curated", SCHEMA.append(pa.field("language", pa.string())), [])
    with pytest.raises(NothingLeft):
        tokenize(tmp_path, tokenizer=str(tmp_path / "other/tokens/tokenizer"))


def test_the_source_and_language_of_each_record_reach_the_token_files(tmp_path: Path) -> None:
    """16 of the 24 records are train. A record begins where its positions begin."""
    write_curated(tmp_path)
    tokenize(tmp_path)
    for name, languages in (("documents", {"en"}), ("conversations", {"latin", "zh"})):
        folder = tmp_path / "tokens" / name / "train"
        records, stream = tokens.read_records(folder), tokens.read_stream(folder)
        assert len(records.starts) == 16
        assert (np.asarray(stream.positions)[records.starts] == 0).all()
        assert (np.asarray(stream.positions)[records.starts + records.lengths - 1] == records.lengths - 1).all()
        assert [records.names["source"][code] for code in records.groups["source"]] == ["synthetic"] * 16
        assert {records.names["language"][code] for code in records.groups["language"]} == languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好，请问 Python 是什么？", "zh"),
        ("これは日本の文です", "ja"),
        ("안녕하세요", "ko"),
        ("Hello, hello, 你", "latin"),
        ("3 + 4", "latin"),
    ],
)
def test_the_script_of_a_conversation(text: str, language: str) -> None:
    assert columns.from_messages([[{"role": "user", "content": text}]]).languages() == [language]
