"""The numbers source: answers can be verified, conversations have no style, and pairs differ in one respect only."""

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from tasks import gold
from tasks.conversations import Conversation, Preference
from tasks.ingestion import splits
from tasks.ingestion.sources import numbers
from tasks.tables import Quarantined

PARAMS = numbers.Params(num_conversations=2000, num_preferences=2000, seed=3)
RECORDS = list(numbers.read(PARAMS))
CONVERSATIONS = [r for r in RECORDS if isinstance(r, Conversation)]
PREFERENCES = [r for r in RECORDS if isinstance(r, Preference)]
BOTH: list[Conversation | Preference] = [*CONVERSATIONS, *PREFERENCES]


def pairs(reason: str) -> list[Preference]:
    return [p for p in PREFERENCES if p.reason == reason]


def has_closing_mark(answer: str) -> bool:
    return answer[-1] in ".。"


def test_same_params_same_records_other_seed_others() -> None:
    assert list(numbers.read(PARAMS)) == RECORDS
    assert list(numbers.read(PARAMS.model_copy(update={"seed": 4}))) != RECORDS


def test_counts_and_unique_ids() -> None:
    assert (len(CONVERSATIONS), len(PREFERENCES)) == (2000, 2000)
    assert len({r.id for r in BOTH}) == 4000
    counts = Counter(p.reason for p in PREFERENCES)
    assert set(counts) == set(numbers.REASONS)
    assert all(430 < count < 570 for count in counts.values())


def test_every_conversation_is_correct_and_half_have_a_closing_mark() -> None:
    scores = Counter(gold.gold(c.messages[-1]["content"], c.metadata) for c in CONVERSATIONS)
    assert set(scores) == {0.5, 1.0}
    assert 900 < scores[1.0] < 1100


def test_both_directions_and_all_lengths_are_there() -> None:
    directions = Counter(c.metadata["direction"] for c in CONVERSATIONS)
    assert set(directions) == {"en-zh", "zh-en"}
    assert min(directions.values()) > 900
    lengths = Counter(len(c.group.removeprefix("number:")) for c in CONVERSATIONS)
    assert all(lengths[n] > 60 for n in (1, 2, 3, 4, 5))
    assert lengths[5] > 1000


def test_chosen_is_right_and_rejected_is_worse() -> None:
    for pair in PREFERENCES:
        assert gold.correct(pair.chosen, pair.metadata), pair
        assert gold.gold(pair.chosen, pair.metadata) > gold.gold(pair.rejected, pair.metadata), pair


def test_except_for_style_both_answers_have_a_closing_mark_or_neither() -> None:
    for reason in ("correct", "language", "complete"):
        assert all(has_closing_mark(p.chosen) == has_closing_mark(p.rejected) for p in pairs(reason))
        assert 200 < sum(has_closing_mark(p.chosen) for p in pairs(reason)) < 300


def test_style_pairs_differ_in_the_mark_alone() -> None:
    rejected = Counter(p.rejected[len(p.metadata["answer"]) :] for p in pairs("style"))
    assert all(p.chosen == p.metadata["answer"] + p.metadata["closing"] for p in pairs("style"))
    assert set(rejected) == {"", ".", "..", "。", "。。"}
    assert 350 < rejected[""] < 450


def test_language_pairs_are_the_same_number_in_the_other_language() -> None:
    for pair in pairs("language"):
        assert pair.chosen.isascii() != pair.rejected.isascii()
        assert pair.rejected.rstrip(".。") in pair.prompt[0]["content"]


def test_correct_pairs_are_in_the_same_language_and_complete_pairs_are_beginnings() -> None:
    assert all(p.chosen.isascii() == p.rejected.isascii() for p in pairs("correct"))
    for pair in pairs("complete"):
        beginning = pair.rejected.rstrip(".。")
        assert pair.metadata["answer"].startswith(beginning)
        assert 0 < len(beginning) < len(pair.metadata["answer"])


def test_words_joined_are_the_number() -> None:
    assert numbers.ENGLISH.words(43_321) == ["forty", "-three", " thousand", " three", " hundred", " twenty", "-one"]
    assert numbers.CHINESE.words(321) == ["三", "百", "二", "十", "一"]


def test_a_number_is_in_one_split_only() -> None:
    splits_of_group: dict[str, set[str]] = {}
    for record in BOTH:
        splits_of_group.setdefault(record.group, set()).add(splits.choose_split(record.group, 0, 0.2, 0.2))
        assert record.group == f"number:{record.group.removeprefix('number:')}"
    assert all(len(s) == 1 for s in splits_of_group.values())
    shares = Counter(s for (s,) in splits_of_group.values())
    assert shares["train"] / len(splits_of_group) == pytest.approx(0.6, abs=0.05)
    assert shares["test"] / len(splits_of_group) == pytest.approx(0.2, abs=0.05)


def test_a_wording_without_the_number_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"must contain \{number\} exactly once"):
        numbers.Params(to_english=("翻译成英文",))


def test_the_smallest_maximum_works() -> None:
    small = numbers.Params(max=20, num_conversations=50, num_preferences=50)
    assert all(int(r.group.removeprefix("number:")) <= 20 for r in numbers.read(small) if not hasattr(r, "reason"))


def test_reasons_come_in_the_shares_asked_for() -> None:
    params = numbers.Params(num_conversations=0, num_preferences=400, reasons={"correct": 3, "style": 1, "language": 0})
    counts = Counter(r.reason for r in numbers.read(params) if isinstance(r, Preference))
    assert set(counts) == {"correct", "style"}
    assert 260 < counts["correct"] < 340
    with pytest.raises(ValidationError, match="at least one reason"):
        numbers.Params(reasons={"correct": 0})


@pytest.mark.parametrize(("number", "maximum"), [(7, 99), (10, 10_000), (100, 100), (99_999, 99_999)])
def test_another_number_is_as_long_and_never_the_same(number: int, maximum: int) -> None:
    rng = random.Random(0)
    results = {numbers.other_number(number, maximum, rng) for _ in range(300)}
    assert number not in results
    assert all(1 <= result <= maximum for result in results)
    if number != 100:
        assert {len(str(result)) for result in results} == {len(str(number))}


def test_rounded_numbers_keep_their_length_and_every_digit_or_a_zero() -> None:
    rng = random.Random(0)
    results = {numbers.replace_with_zeros(345, rng) for _ in range(100)}
    assert results == {345, 305, 340, 300}
    assert numbers.replace_with_zeros(7, rng) == 7
    zeros = [
        sum(
            str(record.group).endswith("00")
            for record in numbers.read(PARAMS.model_copy(update={"round_share": share}))
            if not isinstance(record, Quarantined)
        )
        for share in (0.0, 1.0)
    ]
    assert zeros[1] > 10 * zeros[0]
