"""Tokenization with the chat template of another model: what it refuses is joined, or left out and stated."""

import json
from pathlib import Path
from typing import Any

from tasks import tables, tokens
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Message, Preference
from tasks.files import read_json
from tests.test_chat_templates import CHATML, STRICT, chat, with_template
from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize

ANSWER_FIRST = [{"role": "assistant", "content": "a"}, *chat("q", "b")]


def write_records(data: Path, conversations: list[Any], prompts: list[Any]) -> None:
    """Replace the conversations and preferences of the small data by these, all in the split `train`."""
    write_curated(data)
    with tables.Writer(data / "conversations/curated", CONVERSATIONS) as table:
        for number, messages in enumerate(conversations):
            table.add_row(Conversation(f"c{number}", messages, f"c{number}").row("synthetic", "train"))
    with tables.Writer(data / "preferences/curated", PREFERENCES) as table:
        for number, prompt in enumerate(prompts):
            pair = Preference(f"p{number}", prompt, "good", "bad", f"p{number}", f"reason {number}")
            table.add_row(pair.row("synthetic", "train"))


def tokenize_with(template: str, data: Path) -> Any:
    with_template(template).save_pretrained(data / "foreign")
    return tokenize(data, tokenizer=str(data / "foreign"))


def quarantined(data: Path, kind: str) -> list[dict[str, str]]:
    lines = (data / "tokens/quarantine" / f"{kind}.jsonl").read_text().splitlines()
    return [dict(json.loads(line)) for line in lines]


def test_refused_records_are_left_out_with_their_ids(tmp_path: Path) -> None:
    with_system = chat("be brief", "q", "a", first="system")
    write_records(tmp_path, [with_system, ANSWER_FIRST, chat("q", "a")], [ANSWER_FIRST[:2], chat("r")])
    tokenizer = tokenize_with(STRICT, tmp_path)
    counts = read_json(tmp_path / "tokens/manifest.json")
    of_conversations, of_pairs = counts["conversations"]["train"], counts["preferences"]["train"]
    names = ("num_conversations", "num_refused", "num_joined")
    assert [of_conversations[name] for name in names] == [2, 1, 1]
    assert [of_pairs[name] for name in ("num_pairs", "num_refused", "num_joined")] == [1, 1, 0]
    assert read_json(tmp_path / "tokens/preferences/train/reasons.json") == ["reason 1"]
    expected = [{"id": "c1", "split": "train", "reason": "roles must alternate"}]
    assert quarantined(tmp_path, "conversations") == expected
    assert [line["id"] for line in quarantined(tmp_path, "preferences")] == ["p0"]
    assert [line["id"] for line in quarantined(tmp_path, "prompts")] == ["c1", "p0"]
    stream = tokens.read_stream(tmp_path / "tokens/conversations/train")
    assert "be brief\n\nq<|im_end|>" in tokenizer.decode(stream.ids)
    prompts = tokens.read_ragged(tmp_path / "tokens/prompts/train")
    assert len(prompts) == len(read_json(tmp_path / "tokens/prompts/train/metadata.json")) == 3
    notes = read_json(tmp_path / "reports/tokenization.json")["notes"]
    assert any("1 conversations are left out" in note and "quarantine/conversations.jsonl" in note for note in notes)
    assert any("In 1 conversations, messages were joined" in note for note in notes)


def test_pairs_have_the_ids_of_conversations(tmp_path: Path) -> None:
    prompt: list[Message] = [{"role": "user", "content": "q <|im_end|>"}]
    write_records(tmp_path, [[*prompt, {"role": "assistant", "content": "good"}]], [prompt])
    tokenizer = tokenize_with(CHATML, tmp_path)
    stream = tokens.read_stream(tmp_path / "tokens/conversations/train")
    folder = tmp_path / "tokens/preferences/train"
    ids = [*tokens.read_ragged(folder / "prompt")[0], *tokens.read_ragged(folder / "chosen")[0]]
    assert stream.ids[: len(ids)].tolist() == ids
    assert tokenizer.decode(stream.ids[stream.loss_mask == 1]) == "good<|im_end|>\n"
    assert (
        tokens.read_ragged(tmp_path / "tokens/prompts/train")[0].tolist()
        == tokens.read_ragged(folder / "prompt")[0].tolist()
    )
    assert not (tmp_path / "tokens/quarantine").exists()
