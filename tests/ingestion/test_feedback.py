"""Votes become pairs: what is used, what is not and why, and which annotators can be relied on."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks import tables
from tasks.conversations import PREFERENCES, Preference, UnpairedAnswer
from tasks.curation import conversations
from tasks.curation.privacy.pii import Params as Pii
from tasks.ingestion.feedback import annotators, win_rates
from tasks.ingestion.feedback.win_rates import Comparison
from tasks.ingestion.labels import pair_labeled_answers
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.sources import feedback
from tasks.reports import krippendorff_alpha
from tasks.tables import Quarantined
from tests.ingestion.crowd import Act, Member, thumb, vote, votes

PROMPT = [{"role": "user", "content": "q"}]


def comparison(
    number: int, choice: Any, annotator: str = "a" * 8, texts: tuple[str, str] = ("x", "y"), **more: Any
) -> Any:
    answers = [{"text": text, "model": model} for text, model in zip(texts, ("m1", "m2"), strict=True)]
    return {"id": f"id{number}", "action": "comparison", "annotator": annotator, "prompt": PROMPT, "answers": answers,
            "order": [0, 1], "choice": choice, "time": f"{number:05}", "conversation": "c1", **more}  # fmt: skip


def read(folder: Path, rows: list[Any], **params: Any) -> tuple[list[Any], ReadCounts]:
    """The records of a log; checks that every row is accounted for."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "2026-01-01.jsonl").write_text("\n".join(lines) + "\n")
    counts = ReadCounts()
    settings = feedback.Params.model_validate({"paths": (str(folder),), **params})
    records = list(pair_labeled_answers(feedback.read(settings, counts)))
    used: Counter[str] = Counter()
    for record in records:
        used.update([record.file] if isinstance(record, Quarantined) else record.rows)
    counts.check("feedback", used)
    return records, counts


def reasons(counts: ReadCounts) -> dict[str, int]:
    return {reason: n for (_, reason), n in counts.skipped.items()}


def test_a_comparison_is_a_pair(tmp_path: Path) -> None:
    records, _ = read(tmp_path, [comparison(1, 1, reason="shorter")])
    (pair,) = records
    assert (pair.chosen, pair.rejected, pair.reason, pair.group) == ("y", "x", "shorter", "c1")
    assert pair.metadata == {"models": ["m2", "m1"], "votes": [1, 0], "actions": ["id1"]}


def test_what_gives_no_pair_is_counted(tmp_path: Path) -> None:
    other = ("p", "q")
    rows = [
        comparison(1, "tie"),
        comparison(2, "both_bad", texts=other),
        comparison(3, 0, texts=("r", "s")),
        comparison(3, 0, texts=("r", "s")),
        comparison(4, 0, texts=("t", "u")),
        {"id": "id5", "action": "undo", "annotator": "a" * 8, "target": "id4", "time": "00005"},
        {"id": "id6", "action": "skip", "annotator": "a" * 8, "time": "00006"},
        comparison(7, 0, texts=("v", "w")),
        comparison(8, 1, texts=("v", "w")),
        comparison(0, 0, annotator="b" * 8, texts=("k", "l")),
        {"id": "id9", "action": "deletion", "annotator": "b" * 8, "time": "00009"},
        '{"id": "cut off',
    ]
    records, counts = read(tmp_path, rows)
    pairs = {(record.chosen, record.rejected) for record in records if isinstance(record, Preference)}
    assert pairs == {("r", "s"), ("w", "v")}
    assert reasons(counts) == {
        "a tie gives no pair": 2, "the same action again": 1, "taken back by the annotator": 1,
        "skipped by the annotator": 1, "replaced by a later vote of the same annotator": 1, "deleted on request": 1,
        "an action about other records": 2,
    }  # fmt: skip
    assert [record.reason for record in records if not isinstance(record, Preference)] == ["invalid_json"]


def test_a_ranking_with_a_tie(tmp_path: Path) -> None:
    """Ranks 0, 1, 1: two pairs of one list; the tied answers give none."""
    answers = [{"text": text, "model": "m"} for text in "abc"]
    row = {"id": "r1", "action": "ranking", "annotator": "a" * 8, "item": "i1", "prompt": PROMPT, "answers": answers,
           "order": [2, 1, 0], "ranks": [0, 1, 1], "time": "1"}  # fmt: skip
    records, _ = read(tmp_path, [row])
    assert [(one.chosen, one.rejected) for one in records] == [("a", "b"), ("a", "c")]
    assert {one.metadata["list"] for one in records} == {"i1"}
    assert [len(one.rows) for one in records] == [1, 0]


def test_thumbs_are_labeled_answers(tmp_path: Path) -> None:
    """A good and a bad one to the same prompt are a pair; one alone stays unpaired."""
    thumb = {"action": "thumb", "annotator": "a" * 8, "prompt": PROMPT, "conversation": "c"}
    rows = [
        {**thumb, "id": "1", "answers": [{"text": "x"}], "choice": "good"},
        {**thumb, "id": "2", "answers": [{"text": "y"}], "choice": "bad"},
        {**thumb, "id": "3", "answers": [{"text": "z"}], "choice": "bad", "prompt": [{"role": "user", "content": "p"}]},
    ]
    records, _ = read(tmp_path, rows)
    assert [(type(one), one.group) for one in records] == [(Preference, "c"), (UnpairedAnswer, "c")]
    assert (records[0].chosen, records[0].rejected) == ("x", "y")


def test_thumbs_about_one_answer_are_one_label(tmp_path: Path) -> None:
    """Two say good, one says bad: one label with three rows, of which one is counted; a draw gives none."""
    thumb = {"action": "thumb", "prompt": PROMPT, "conversation": "c"}
    rows = [{**thumb, "id": str(n), "annotator": f"annotator{n}", "choice": choice, "answers": [{"text": "x"}]}
            for n, choice in enumerate(("good", "bad", "good"))]  # fmt: skip
    rows += [{**thumb, "id": f"d{n}", "annotator": f"annotator{n}", "choice": choice, "answers": [{"text": "y"}]}
             for n, choice in enumerate(("good", "bad"))]  # fmt: skip
    (label,), counts = read(tmp_path, rows)
    assert (label.answer, label.is_good, len(label.rows)) == ("x", True, 2)
    assert reasons(counts) == {"probably wrong or poisoned": 1, "annotators disagree": 2}
    assert counts.tables["feedback"][0]["thumbs"] == 5


@pytest.mark.parametrize("act", [vote, thumb])
@pytest.mark.parametrize("count", [2, 120])
def test_two_accounts_about_every_answer_do_not_discredit_the_others(tmp_path: Path, act: Act, count: int) -> None:
    """Three annotators judge each of 60 answers or pairs; two accounts, or 120 new ones, contradict them everywhere."""
    crowd = [Member(f"goodgood{n}") for n in range(8)]
    rng = random.Random(1)
    for seed in range(3):
        rows = votes(crowd, 60, per_item=3, seed=seed, act=act)
        poisoned = [act(rng, Member(f"attacker{(2 * n + i) % count}", accuracy=0.0), n)
                    for n in range(60) for i in range(2)]  # fmt: skip
        before, _ = read(tmp_path, rows)
        after, counts = read(tmp_path, [*rows, *poisoned])
        wrong = {row["prompt"][0]["content"] for row in rows
                 if row["choice"] not in (0, row["answers"][0]["text"].split()[0])}  # fmt: skip
        decided = [{one.prompt[0]["content"]: getattr(one, "chosen", "") or one.is_good for one in records}
                   for records in (before, after)]  # fmt: skip
        assert all(decided[1][item] == value for item, value in decided[0].items() if item not in wrong)
        excluded = [row["votes"] for row in counts.tables["feedback_annotators"] if row["excluded"]]
        assert excluded == ([60, 60] if count == 2 else [])


def test_the_majority_decides(tmp_path: Path) -> None:
    """Of two against one of whom little is known, the one is probably wrong."""
    rows = [comparison(n, choice, annotator=f"annotator{n}") for n, choice in enumerate((0, 0, 1))]
    rows += [comparison(n + 10, choice, annotator=f"annotator{n}", texts=("p", "q")) for n, choice in enumerate((0, 1))]
    records, counts = read(tmp_path, rows)
    (pair,) = records
    assert (pair.chosen, pair.metadata["votes"], len(pair.rows)) == ("x", [2, 0], 2)
    assert reasons(counts) == {"probably wrong or poisoned": 1, "annotators disagree": 2}
    (pair,), counts = read(tmp_path, rows[:3], annotators={"exclude_flagged": False})
    assert (pair.chosen, pair.metadata["votes"], len(pair.rows)) == ("x", [2, 1], 2)
    assert reasons(counts) == {"outvoted by other annotators": 1}


def test_an_annotator_at_chance_and_a_one_sided_one_are_excluded(tmp_path: Path) -> None:
    """Six annotators, two votes per item: one votes by chance, one always for the first answer."""
    good = [Member(f"goodgood{n}") for n in range(4)]
    crowd = [*good, Member("byChance", accuracy=0.5), Member("oneSided", first_share=1.0)]
    rows = votes(crowd, 300)
    records, counts = read(tmp_path, rows)
    table = counts.tables["feedback_annotators"]
    excluded = {row["votes"]: row["excluded"] for row in table if row["excluded"]}
    assert sorted(excluded.values()) == [
        "agrees with the others as by chance",
        "chooses the first answer, whatever it is",
    ]
    by_member = Counter(row["annotator"] for row in rows)
    assert sorted(excluded) == sorted((by_member["byChance"], by_member["oneSided"]))
    pairs = [record for record in records if isinstance(record, Preference)]
    assert sum(pair.chosen.startswith("good") for pair in pairs) > 0.87 * len(pairs)
    everyone, _ = read(tmp_path, rows, annotators={"exclude": False})
    share = sum(pair.chosen.startswith("good") for pair in everyone) / len(everyone)
    assert share < sum(pair.chosen.startswith("good") for pair in pairs) / len(pairs)
    (summary,) = counts.tables["feedback"]
    assert summary["alpha"] > 0.5
    assert summary["excluded_annotators"] == 2
    (models,) = counts.tables["feedback_models"]
    assert models["low"] < models["win_rate"] < models["high"]
    assert models["win_rate"] > 0.85
    assert counts.notes, "the report says who was excluded"


def test_a_vote_for_the_preferred_side_counts_less() -> None:
    """An annotator who chooses the first answer in 70 of 100 comparisons."""
    from tasks.ingestion.decoding import Location
    from tasks.ingestion.feedback.votes import PairVote, Row
    from tasks.reports import Score

    annotator = annotators.Annotator("annotator-1", 100, Score.of_share(75, 100), Score.of_share(70, 100), "")
    row = Row(Location("f"), comparison(1, 0))
    first, second = (annotators.vote_weight(PairVote(row, 0, 1, was_first), annotator) for was_first in (True, False))
    assert second == pytest.approx(annotator.weight)
    assert first / second == pytest.approx(0.5 / (75 / 110))


def test_krippendorffs_alpha() -> None:
    """Example of Krippendorff (2011), section B: two observers, 10 items, nominal data: 0.095; by hand for perfect."""
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(list(zip(first, second, strict=True))) == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha([(0, 0), (1, 1)]) == 1
    assert krippendorff_alpha([(0, 0)]) is None
    assert krippendorff_alpha([(0,), (1,)]) is None


def test_votes_needed() -> None:
    """55 % against 50 % needs 783 votes."""
    assert annotators.votes_needed(0.55) == 783
    assert annotators.votes_needed(0.5) is None


def test_a_vote_about_a_blocked_answer_is_not_used(tmp_path: Path) -> None:
    """The sentence that replaces a blocked answer must not become training data."""
    row = comparison(1, 0)
    row["answers"][0]["finish_reason"] = "content_filter"
    records, counts = read(tmp_path, [row, comparison(2, 0, texts=("p", "q"))])
    assert [record.chosen for record in records] == ["p"]
    assert reasons(counts) == {"an answer was blocked by the filter of the server": 1}


def test_personal_data_in_a_vote_is_masked(tmp_path: Path) -> None:
    """A telephone number in the prompt, in both answers and in the reason, from the log to the curated table."""
    call = "Call (212) 555-0142"
    row = comparison(1, 0, texts=(f"{call} now", f"{call} later"), reason=f"{call}, it is right")
    row["prompt"] = [{"role": "user", "content": f"{call}?"}]
    (pair,), _ = read(tmp_path / "log", [row])
    with tables.Writer(tmp_path / "raw", PREFERENCES) as writer:
        writer.add_row(pair.row("feedback", "train"))
    settings = conversations.Params(pii=Pii.model_validate({}))
    counts = conversations.curate(
        tmp_path / "raw", tmp_path / "curated", tmp_path / "dropped", settings, tmp_path / "x"
    )
    (kept,) = tables.read(tmp_path / "curated").to_pylist()
    assert "555" not in str(kept)
    assert counts["masked_phone"] == 4


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1"},
        {"id": "1", "annotator": "a", "action": "undo", "target": []},
        {"id": "1", "annotator": "a", "action": "comparison", "prompt": PROMPT, "answers": [{"text": 1}], "choice": 0},
        {"id": "1", "annotator": "a", "action": "ranking", "prompt": PROMPT, "answers": [{"text": "x"}], "ranks": [0]},
        {"id": "1", "annotator": "a", "action": "buy"},
        [1],
        {"id": "1", "annotator": "a", "action": "thumb", "prompt": [{"role": 1}], "answers": 5, "choice": "good"},
    ],
)  # fmt: skip
def test_a_damaged_row_is_quarantined(tmp_path: Path, row: Any) -> None:
    records, _ = read(tmp_path, [row, comparison(2, 0)])
    assert len(records) == 2
    assert sum(isinstance(record, Preference) for record in records) == 1


def test_strengths_of_models_by_hand() -> None:
    """A wins 30 of 40 votes against B, each about another prompt: the difference is log(3) = 1.0986."""
    comparisons = [Comparison("A", "B", float(n < 30), n % 2 == 0, str(n)) for n in range(40)]
    strengths = win_rates.fit(comparisons)
    assert strengths is not None
    best, worst = strengths.rows()
    assert (best["model"], best["votes"]) == ("A", 40)
    assert best["strength"] - worst["strength"] == pytest.approx(math.log(3), abs=0.01)
    # The standard error of log(p / (1 - p)) is 1 / sqrt(n p (1 - p)) = 0.365; that of half of it is 0.183.
    assert best["high"] - best["low"] == pytest.approx(2 * 1.96 * 0.183, rel=0.05)
    assert win_rates.fit([Comparison("A", "A", 1.0, True, "p")]) is None


def test_a_preferred_side_is_no_advantage_of_a_model() -> None:
    """Every annotator takes the first answer in 80 % of the votes, and A is first in 80 % of them: A is not better."""
    rng = random.Random(0)
    comparisons = []
    for n in range(1000):
        is_first, first_wins = rng.random() < 0.8, rng.random() < 0.8
        comparisons.append(Comparison("A", "B", float(is_first == first_wins), is_first, str(n)))
    strengths = win_rates.fit(comparisons)
    assert strengths is not None
    assert all(row["low"] < 0 < row["high"] for row in strengths.rows())
    value, low, high = strengths.side_effect()
    assert low < math.log(4) < high
    assert value > 1


def test_ties_count_half_in_the_strengths(tmp_path: Path) -> None:
    rows = [comparison(n, "tie", texts=(f"x{n}", f"y{n}")) for n in range(4)]
    _, counts = read(tmp_path, [*rows, comparison(9, 0)])
    best, _ = counts.tables["feedback_strengths"]
    assert (best["model"], best["votes"]) == ("m1", 5)


def test_poisoned_votes_of_accounts_with_few_votes_are_flagged(tmp_path: Path) -> None:
    """Three votes per item of annotators who are right nine times in ten, and five accounts that vote for the worse."""
    rng = random.Random(1)
    rows = votes([Member(f"goodgood{n}") for n in range(8)], 150, per_item=3)
    attackers = [Member(f"attacker{n}", accuracy=0.0) for n in range(5)]
    poisoned = [vote(rng, attackers[n % 5], item) for n, item in enumerate(rng.sample(range(150), 25))]
    records, counts = read(tmp_path, [*rows, *poisoned])
    listed = {row["vote"]: row for row in counts.tables["feedback_flagged"]}
    assert sum(row["id"] in listed for row in poisoned) >= 20
    right = {row["id"] for row in rows if row["choice"] == 0}
    assert len(right & listed.keys()) <= 0.05 * len(rows)
    assert counts.tables["feedback"][0]["flagged_votes"] == len(listed)
    assert any("poisoned" in note for note in counts.notes)
    kept, _ = read(tmp_path, [*rows, *poisoned], annotators={"exclude_flagged": False})
    assert len(records) <= len(kept) + 1


def test_many_accounts_with_one_vote_do_not_discredit_the_others(tmp_path: Path) -> None:
    """Two new accounts vote against the three annotators of each of 60 pairs: those who have voted more count more."""
    rows = votes([Member(f"goodgood{n}") for n in range(8)], 60, per_item=3, seed=3)
    agreed = {f"good {n}" for n in range(60)} - {row["answers"][0]["text"] for row in rows if row["choice"] == 1}
    rng = random.Random(1)
    poisoned = [vote(rng, Member(f"sybil{n:03}", accuracy=0.0), n // 2) for n in range(120)]
    records, counts = read(tmp_path, [*rows, *poisoned])
    assert agreed <= {record.chosen for record in records if isinstance(record, Preference)}
    assert not any(row["excluded"] for row in counts.tables["feedback_annotators"])


def test_an_annotator_who_votes_against_the_others_is_excluded(tmp_path: Path) -> None:
    """Ten votes that all others contradict: the interval of the agreement, 0 to 0.31, is below one half."""
    good = votes([Member(f"goodgood{n}", accuracy=1.0) for n in range(3)], 10, per_item=2)
    rows = [*good, *(vote(random.Random(n), Member("attacker1", accuracy=0.0), n) for n in range(10))]
    _, counts = read(tmp_path, rows)
    assert [row["excluded"] for row in counts.tables["feedback_annotators"] if row["excluded"]] == [annotators.AGAINST]
