"""Preferences in the formats of public data sets: the better answer is the right one, or the row is quarantined."""

from typing import Any

import pytest

from tasks.conversations import Preference, UnpairedAnswer
from tasks.ingestion import labels
from tasks.ingestion.decoding import Location
from tasks.ingestion.labels import pair_labeled_answers
from tasks.ingestion.records import Record, RowParams, from_row
from tasks.tables import Quarantined

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}
B = {"role": "assistant", "content": "bad"}
S = {"role": "system", "content": "s"}


def read(row: dict[str, Any], **params: Any) -> list[Record]:
    return list(from_row(row, Location("a.jsonl", 7), RowParams(kind="preferences", **params)))


def pairs(row: dict[str, Any], **params: Any) -> list[tuple[str, str]]:
    records = read(row, **params)
    assert all(isinstance(record, Preference) for record in records), records
    return [(record.chosen, record.rejected) for record in records if isinstance(record, Preference)]


FORMATS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"prompt": "q", "chosen": [S, Q, A], "rejected": [S, Q, B]}, [S, Q]),  # ORPO
    ({"prompt": "", "chosen": [Q, A], "rejected": [Q, B]}, [Q]),
    ({"messages": [Q, A], "chosen": "good", "rejected": "bad"}, [Q]),
    ({"messages": [Q, A], "rejected_response": "bad"}, [Q]),  # swift
    ({"system": "s", "question": "q", "chosen": "good", "rejected": "bad"}, [S, Q]),  # Intel/orca_dpo_pairs
    ({"question": "q", "response_chosen": "good", "response_rejected": "bad"}, [Q]),
    (
        {
            "prompt": "q",
            "chosen": [Q, A],
            "rejected": [Q, B],
            "messages": [Q, A],
            "score_chosen": 8,
            "score_rejected": 3,
        },
        [Q],
    ),
    ({"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": None, "score_rejected": 3}, [Q]),
    ({"prompt": "q", "chosen": "good", "rejected": "bad", "rank_chosen": 1, "rank_rejected": 2}, [Q]),
    ({"chosen": "Human: q\n\nAssistant: good", "rejected": "Human: q\n\nAssistant: bad"}, [Q]),
    (
        {"prompt": "\n\nHuman: q\n\nAssistant: bad\n\nHuman: q\n\nAssistant:", "chosen": " good", "rejected": " bad"},
        [Q, B, Q],
    ),
    ({"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1}, [Q]),  # PKU-SafeRLHF
    ({"history": "q", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1}, [Q]),  # SHP
    ({"history": "q", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0}, [Q]),
    ({"prompt": "q", "response_1": "good", "response_2": "bad", "preference_strength": -2}, [Q]),  # HelpSteer2
    ({"context": [Q], "response1": "bad", "response2": "good", "overall_preference": 3}, [Q]),  # HelpSteer3
    ({"conversation_a": [Q, B], "conversation_b": [Q, A], "winner": "model_b"}, [Q]),  # Chatbot Arena
    ({"instruction": "q", "output_1": "good", "output_2": "bad", "preference": 1.2}, [Q]),  # AlpacaEval
    (
        {
            "instruction": "q",
            "completions": [{"response": "good", "overall_score": 8.5}, {"response": "bad", "overall_score": 2}],
        },
        [Q],
    ),
    ({"prompt": "q", "answers": [{"text": "bad", "score": "7.5"}, {"text": "good", "score": "10"}]}, [Q]),
    ({"prompt": "q", "answers": [{"text": "bad", "score": False}, {"text": "good", "score": True}]}, [Q]),
    ({"prompt": "q", "answers": [{"text": "bad", "label": 0}, {"text": "good", "label": 1}]}, [Q]),
    ({"prompt": "q", "answers": [{"text": "bad", "reward": -1.5}, {"text": "good", "reward": 0.5}]}, [Q]),
    ({"prompt": "q", "answers": [{"text": "bad", "rank": "2"}, {"text": "good", "rank": "1"}]}, [Q]),
    (
        {"prompt": "q", "answers": [{"text": "bad", "rank": 2, "score": 1}, {"text": "good", "rank": 1, "score": 3}]},
        [Q],
    ),
    ({"prompt": "q", "answers": '[{"text": "bad", "score": 1}, {"text": "good", "score": 2}]'}, [Q]),
    ({"prompt": "q", "responses": ["bad", "good"], "ratings": [1, 4]}, [Q]),
    ({"prompt": "q", "responses": ["bad", "good"], "ranks": [2, 1]}, [Q]),
    ({"messages": [Q, B, Q], "answers": ["good", "bad"]}, [Q, B, Q]),
]


@pytest.mark.parametrize(("row", "prompt"), FORMATS)
def test_formats(row: dict[str, Any], prompt: list[Any]) -> None:
    (pair,) = read(row)
    assert isinstance(pair, Preference)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "good", "bad")


QUARANTINED: list[tuple[dict[str, Any], str]] = [
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1.0, "score_rejected": 9.0},
        "contradictory_scores",
    ),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "chosen-rating": 8, "rejected-rating": 8}, "tie"),
    ({"prompt": "q", "answers": [{"text": "a", "score": None}, {"text": "b", "score": 5}]}, "unranked"),
    ({"prompt": "q", "answers": [{"text": "a", "score": float("nan")}, {"text": "b", "score": 5}]}, "unranked"),
    ({"prompt": "q", "answers": [{"text": "a", "score": "N/A"}, {"text": "b", "score": 5}]}, "unranked"),
    ({"prompt": "q", "answers": [{"text": "a"}, {"text": "b"}]}, "unranked"),
    ({"prompt": "q", "answers": [{"text": "a", "score": 1}, {"text": "b", "rank": 1}]}, "unranked"),
    ({"prompt": "q", "answers": [{"text": "a", "score": "high"}, {"text": "b", "score": 5}]}, "wrong_type"),
    ({"prompt": "q", "answers": [{"text": "a", "rank": True}, {"text": "b", "rank": False}]}, "wrong_type"),
    ({"prompt": "q", "answers": [{"text": "a", "score": 3}, {"text": "b", "score": 3}]}, "no_difference"),
    (
        {"prompt": "q", "answers": [{"text": "a", "rank": 1, "score": 1}, {"text": "b", "rank": 2, "score": 3}]},
        "contradictory_scores",
    ),
    ({"prompt": "q", "responses": ["a", "b"]}, "unranked"),
    ({"prompt": "q", "responses": ["a", "b"], "ratings": [1]}, "wrong_type"),
    ({"prompt": "q", "response": "r", "helpfulness": 3}, "unknown_format"),  # HelpSteer: one rated answer
    ({"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1}, "unknown_format"),
    ({"prompt": "q", "response_0": "a", "response_1": "b"}, "unknown_format"),
    ({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 2}, "wrong_type"),
    ({"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 0}, "tie"),
    ({"conversation_a": [Q, A], "conversation_b": [Q, B], "winner": "tie (bothbad)"}, "tie"),
    ({"prompt": "q", "completion": "a", "label": "sports"}, "wrong_type"),
    ({"prompt": "q", "chosen": "a", "response_chosen": "c", "rejected": "b"}, "ambiguous"),
    ({"chosen": "\n\nHuman: \n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"}, "empty_text"),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: p", "rejected": "\n\nHuman: q\n\nAssistant: b"}, "bad_roles"),
]


@pytest.mark.parametrize(("row", "reason"), QUARANTINED)
def test_nothing_is_guessed(row: dict[str, Any], reason: str) -> None:
    (bad,) = read(row)
    assert isinstance(bad, Quarantined), bad
    assert bad.reason == reason


def test_an_unknown_format_names_its_columns() -> None:
    (bad,) = read({"prompt": "q", "one": "a", "two": "b"})
    assert isinstance(bad, Quarantined)
    assert "the columns are: one, prompt, two" in bad.detail


def test_a_ranked_list_becomes_its_pairs() -> None:
    scores = {"worst": 0, "best": 2, "x": 1, "y": 1}
    answers = [{"text": text, "score": score} for text, score in scores.items()]
    records = read({"prompt": "q", "answers": answers})
    assert all(isinstance(record, Preference) for record in records)
    assert {(p.chosen, p.rejected) for p in records if isinstance(p, Preference)} == {
        ("best", "worst"), ("x", "worst"), ("y", "worst"), ("best", "x"), ("best", "y"),
    }  # fmt: skip
    assert [p.metadata for p in records if isinstance(p, Preference)] == [{"list": "a.jsonl:7"}] * 5
    assert len({p.id for p in records if isinstance(p, Preference)}) == 5


def test_a_long_list_gives_a_bounded_number_of_pairs_that_depends_only_on_the_record() -> None:
    row = {"prompt": "q", "answers": [{"text": f"answer {i}", "score": i // 2} for i in range(1000)]}
    chosen = pairs(row, max_pairs_per_list=50)
    assert len(set(chosen)) == 50
    assert chosen == pairs(row, max_pairs_per_list=50)
    for better, worse in chosen:
        assert int(better.split()[1]) // 2 > int(worse.split()[1]) // 2
    first, *_ = read(row, max_pairs_per_list=50)
    assert isinstance(first, Preference)
    # 1000 answers have 499,500 pairs, of which 500 are ties.
    assert first.changes == {"a pair of a ranked list is left out (max_pairs_per_list)": 499_500 - 500 - 50}


def test_an_answer_without_a_score_is_left_out_of_its_list() -> None:
    answers = [{"text": "a", "score": 2}, {"text": "b", "score": None}, {"text": "c", "score": 1}]
    (pair,) = read({"prompt": "q", "answers": answers})
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == ("a", "c")
    assert pair.changes == {"an answer without rank or score is left out of its list": 1}


def kto(*rows: tuple[str, str, Any]) -> list[Any]:
    records: list[Record] = []
    for line, (prompt, answer, label) in enumerate(rows):
        row = {"prompt": prompt, "completion": answer, "label": label}
        records += from_row(row, Location("a.jsonl", line), RowParams(kind="preferences"))
    return list(pair_labeled_answers(records))


def test_labeled_answers_to_one_prompt_become_pairs() -> None:
    records = kto(("q", "good", True), ("p", "bad", False), ("q", "bad", False), ("p", "good", "true"), ("r", "x", 1))
    assert [(r.prompt[0]["content"], r.chosen, r.rejected, r.id) for r in records[:2]] == [
        ("q", "good", "bad", "a.jsonl:0"),
        ("p", "good", "bad", "a.jsonl:1"),
    ]
    assert records[2:] == [UnpairedAnswer("a.jsonl:4", [{"role": "user", "content": "r"}], "x", True, records[2].group)]
    assert records[0].changes == {"a good and a bad answer to one prompt (KTO rows) are joined to a pair": 1}


def test_an_answer_that_is_labeled_good_and_bad_is_quarantined() -> None:
    """Both rows are quarantined, also if another answer to the prompt waits before them."""
    records = kto(("q", "a", True), ("q", "a", False))
    assert [(r.reason, r.line) for r in records] == [("contradictory_label", 0), ("contradictory_label", 1)]
    records = kto(("q", "b", True), ("q", "a", True), ("q", "a", False))
    assert [getattr(r, "reason", "") for r in records] == ["contradictory_label", "contradictory_label", ""]


def test_the_memory_for_waiting_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_WAITING_CHARACTERS", 10)
    records = kto(("q1", "aaaa", True), ("q2", "bbbb", True), ("q1", "c", False), ("q2", "d", False))
    kinds = [(type(r).__name__, getattr(r, "line", None)) for r in records]
    assert kinds == [("UnpairedAnswer", None), ("Preference", None), ("UnpairedAnswer", None)]
