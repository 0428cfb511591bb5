"""Conversations and preferences: which records are dropped, and for which reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Preference, UnpairedAnswer
from tasks.curation import conversations
from tasks.curation.contamination import boilerplate, contamination, leaks
from tasks.curation.privacy import pii

LONG = "a decorator that remembers the results of a function by its arguments so that it runs only once for each"


def conversation(id: str, question: str, answer: str, split: str = "train") -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(id, messages, id).row("test", split)  # type: ignore[arg-type]


def preference(id: str, question: str, chosen: str, rejected: str, split: str = "train") -> dict[str, Any]:
    return Preference(id, [{"role": "user", "content": question}], chosen, rejected, id, "style").row("test", split)


def curated(folder: Path, schema: Any, rows: list[dict[str, Any]], **params: Any) -> tuple[list[str], dict[str, str]]:
    """Return the kept ids, and the reason and evidence of each dropped id."""
    with tables.Writer(folder / "raw", schema) as writer:
        for row in rows:
            writer.add_row(row)
    kept, dropped = curate_table(folder, **params)
    assert len(rows) == len(kept) + len(dropped)
    assert tables.read(folder / "curated").schema.equals(schema)
    return kept, dropped


def curate_table(folder: Path, **params: Any) -> tuple[list[str], dict[str, str]]:
    """Return what `curated` returns, of the table in the folder `raw`."""
    index = contamination.build_index([conversations.held_out_examples(folder / "raw", "held")], contamination.Params())
    common = boilerplate.recognize(index, [conversations.survey(folder / "raw", index, folder / "scratch")])
    comparison = leaks.Comparison(index, common)
    counts = conversations.curate(
        folder / "raw",
        folder / "curated",
        folder / "dropped",
        conversations.Params(**params),
        folder / "scratch",
        comparison,
    )
    kept, dropped = tables.read(folder / "curated"), tables.read(folder / "dropped")
    assert counts["read"] == kept.num_rows + dropped.num_rows
    assert all(counts[reason] for reason in dropped["drop_reason"].to_pylist())
    evidence = [f"{row['drop_reason']}: {row['drop_evidence']}" for row in dropped.to_pylist()]
    return kept["id"].to_pylist(), dict(zip(dropped["id"].to_pylist(), evidence, strict=True))


def test_held_out_records_win_over_train_and_test_over_validation(tmp_path: Path) -> None:
    rows = [
        conversation("a", "Hi?", "Hello."),
        conversation("b", "Hi?", "Hello.", "validation"),
        conversation("c", "Hi?", " Hello. ", "test"),
        conversation("d", "Hi?", "Hello!"),
    ]
    kept, dropped = curated(tmp_path, CONVERSATIONS, rows, contamination=False)
    assert kept == ["c", "d"]
    assert dropped == {"a": "exact.duplicate: c", "b": "exact.duplicate: c"}


def test_roles_are_part_of_what_is_said(tmp_path: Path) -> None:
    swapped = conversation("b", "x", "y")
    swapped["messages"] = [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]
    assert curated(tmp_path, CONVERSATIONS, [conversation("a", "x", "y"), swapped])[0] == ["a", "b"]


def test_train_records_that_give_a_held_out_one_away_are_dropped(tmp_path: Path) -> None:
    rows = [
        conversation("leak", "Describe functools.cache", f"It is {LONG} call"),
        conversation("fine", "Describe functools.cache", "A cache."),
        conversation("short-leak", "translate 321 into english", "three hundred twenty-one"),
        conversation("other-number", "Translate 322 into English", "three hundred twenty-two"),
        conversation("held-long", "What does `functools.cache` do?", LONG, "test"),
        conversation("held-short", "Translate 321 into English", "three hundred twenty-one.", "validation"),
    ]
    kept, dropped = curated(tmp_path, CONVERSATIONS, rows)
    assert kept == ["fine", "other-number", "held-long", "held-short"]
    expected = {"leak": "contamination: held/held-long", "short-leak": "contamination: held/held-short"}
    assert dropped == expected


def test_either_side_of_a_preference_can_give_away(tmp_path: Path) -> None:
    rows = [
        preference("rejected", "What is it?", "No idea.", LONG),
        preference("chosen", "Say what it is", LONG, "No idea."),
        preference("same", "Why?", "Because.", "No."),
        preference("again", "Why?", "Because.", "No."),
        preference("turned", "Why?", "No.", "Because."),
        preference("held", "What is it?", LONG, "Nothing.", "test"),
    ]
    kept, dropped = curated(tmp_path, PREFERENCES, rows)
    assert kept == ["again", "turned", "held"]
    assert dropped == {
        "rejected": "contamination: held/held",
        "chosen": "contamination: held/held",
        "same": "exact.duplicate: again",
    }


def test_the_same_input_gives_the_same_bytes_and_an_empty_table_is_fine(tmp_path: Path) -> None:
    rows = [conversation(f"c{i}", f"question {i % 7}", "answer") for i in range(20)]
    for folder in ("one", "two"):
        curated(tmp_path / folder, CONVERSATIONS, rows)
    for part in ("curated", "dropped"):
        manifests = [json.loads((tmp_path / folder / part / "manifest.json").read_text()) for folder in ("one", "two")]
        assert manifests[0] == manifests[1]
    assert curated(tmp_path / "empty", PREFERENCES, []) == ([], {})


def test_row_groups_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty pairs with prompts, masks, copies and leaks in different row groups of the input, of one row or of all."""
    rows = [
        preference(f"p{i}", f"question {i % 3}", f"answer {i % 2}", f"{LONG} {i}" if i in (4, 17) else "No.")
        for i in range(30)
    ]
    rows.append(preference("held", "What is a cache?", f"It is {LONG} call.", "Nothing.", "test"))
    rows.append(preference("mail", "Who?", "ann@example.com", "bob@example.com"))
    results = []
    for part_bytes in (1 << 20, 1):
        monkeypatch.setattr(conversations, "PART_BYTES", part_bytes)
        monkeypatch.setattr(tables, "GROUP_BYTES", part_bytes)
        folder = tmp_path / str(part_bytes)
        with tables.Writer(folder / "raw", PREFERENCES, batch_rows=1 if part_bytes == 1 else 100) as writer:
            for row in rows:
                writer.add_row(row)
        kept, dropped = curate_table(folder, pii=pii.Params())
        files = {name: (folder / name / "00000.parquet").read_bytes() for name in ("curated", "dropped")}
        results.append((kept, dropped, files))
        assert len(list(tables.row_groups(folder / "raw"))) == (len(rows) if part_bytes == 1 else 1)
        assert not (folder / "scratch").exists()
    assert results[0] == results[1]
    assert results[0][1]["mail"] == "pii.same_answers: "
    assert {reason.split(":")[0] for reason in results[0][1].values()} == {
        "pii.same_answers", "exact.duplicate", "contamination",
    }  # fmt: skip


SYSTEM = "You are Ada, the friendly assistant of the Example Town library, and you never give legal or medical advice."


def chat(id: str, system: str, question: str, answer: str, split: str = "train") -> dict[str, Any]:
    row = conversation(id, question, answer, split)
    return row | {"messages": [{"role": "system", "content": system}, *row["messages"]]}


def test_a_shared_system_prompt_is_no_leak_but_the_same_dialogue_below_another_one_is(tmp_path: Path) -> None:
    rows = [
        chat("held", SYSTEM, "When do you open?", "At eight.", "test"),
        chat("other", SYSTEM, "Where do I pay?", "At the desk."),
        chat("same", "Answer briefly.", "when do you open", "At eight."),
        chat("secret", f"An example: {LONG}", "Hi", "Hello"),
        conversation("held-long", "What is it?", LONG, "test"),
    ]
    kept, dropped = curated(tmp_path, CONVERSATIONS, rows)
    assert kept == ["held", "other", "held-long"]
    assert dropped == {"same": "contamination: held/held", "secret": "contamination: held/held-long"}


def test_a_template_of_prompts_is_no_leak_in_small_sets(tmp_path: Path) -> None:
    template = (
        "Translate the following sentence into Chinese, and answer with the translation only, without explanation:"
    )
    rows = [
        conversation(f"{i}", f"{template} {i} {i * i}", f"answer {i}", "test" if i < 3 else "train") for i in range(9)
    ]
    assert curated(tmp_path, CONVERSATIONS, rows)[1] == {}


def test_many_answers_to_a_held_out_prompt_are_leaks(tmp_path: Path) -> None:
    rows = [conversation(f"{i}", LONG, f"answer {i}", "train" if i else "test") for i in range(30)]
    assert len(curated(tmp_path, CONVERSATIONS, rows)[1]) == 29


def test_personal_data_are_masked_and_counted(tmp_path: Path) -> None:
    """The pair "differ" differs in a telephone number only: once it is masked, nothing can be learned."""
    settings: dict[str, Any] = {"pii": pii.Params(), "contamination": False}
    rows = [
        chat("a", "Write to ann@example.com.", "My number is 139 1234 5678", "Thanks, 139.1234.5678"),
        conversation("b", "Hi", "Hello"),
    ]
    assert curated(tmp_path / "c", CONVERSATIONS, rows, **settings)[0] == ["a", "b"]
    messages = tables.read(tmp_path / "c" / "curated")["messages"].to_pylist()
    assert [message["content"] for message in messages[0]] == [
        "Write to <email>.",
        "My number is <mobile>",
        "Thanks, <mobile>",
    ]
    pairs = [
        preference("p", "Who?", "ann@example.com", "nobody"),
        preference("differ", "Tel?", "139 1234 5678", "139 1234 5679"),
    ]
    kept, dropped = curated(tmp_path / "p", PREFERENCES, pairs, **settings)
    assert (kept, dropped) == (["p"], {"differ": "pii.same_answers: "})
    counts = conversations.curate(
        tmp_path / "p" / "raw", tmp_path / "x", tmp_path / "y", conversations.Params(**settings), tmp_path / "z"
    )
    assert counts == {"read": 2, "kept": 1, "pii.same_answers": 1, "masked_email": 1}


def unpaired(id: str, question: str, answer: str, is_good: bool, split: str = "train") -> dict[str, Any]:
    return UnpairedAnswer(id, [{"role": "user", "content": question}], answer, is_good, id).row("test", split)


def test_answers_that_were_judged_alone_are_curated_as_pairs_are(tmp_path: Path) -> None:
    """Repeated ones are dropped unless label or kind differ, leaks are found on both sides, and numbers are masked."""
    rows = [
        unpaired("good", "Which one?", "This one.", True),
        unpaired("once more", "Which one?", "This one.", True),
        unpaired("bad", "Which one?", "This one.", False),
        preference("pair", "Which one?", "This one.", "That one."),
        unpaired("held", "What is a cache?", f"It is {LONG} call.", False, "test"),
        unpaired("leak", "Explain caches.", f"It is {LONG} call.", True),
        unpaired("bad leak", "Explain caches, please.", f"It is {LONG} call.", False),
        unpaired("mail", "Whom do I ask?", "Write to jane.doe@example.org about it.", False),
    ]
    kept, dropped = curated(tmp_path, PREFERENCES, rows, pii=pii.Params())
    assert kept == ["good", "bad", "pair", "held", "mail"]
    leak = "contamination: held/held"
    assert dropped == {"once more": "exact.duplicate: good", "leak": leak, "bad leak": leak}
    mail = tables.read(tmp_path / "curated").to_pylist()[-1]
    assert mail["chosen"] is None
    assert "jane.doe" not in mail["rejected"]
