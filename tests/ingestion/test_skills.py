"""Conversations about the skills of a small assistant: right answers, held-out values and wordings, follow-ups."""

import random
import re
from collections import Counter

import pytest

from tasks import gold
from tasks.conversations import Conversation, Preference
from tasks.ingestion.skills import SKILLS, calendar_time, letters, lists, number_forms, refusals, rejections, wording
from tasks.ingestion.skills.turns import Draw, is_held_out
from tasks.ingestion.sources import skills

PARAMS = skills.Params(num_conversations=3000, seed=3)
RECORDS = [record for record in skills.read(PARAMS) if isinstance(record, Conversation)]


def test_the_same_params_give_the_same_conversations() -> None:
    assert [record.messages for record in skills.read(PARAMS) if isinstance(record, Conversation)] == [
        record.messages for record in RECORDS
    ]


def test_every_conversation_alternates_and_ends_with_the_assistant() -> None:
    for record in RECORDS:
        roles = [message["role"] for message in record.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in record.messages)
        assert record.messages[-1]["content"].startswith(record.metadata["answer"])


def test_arithmetic_in_digits_is_right() -> None:
    """Every answer such as `12 + 30 = 42` is checked by Python."""
    equations = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)[.。]")
    answers = [
        message["content"] for record in RECORDS for message in record.messages if message["role"] == "assistant"
    ]
    found = [match for match in map(equations.fullmatch, answers) if match]
    assert len(found) > 500
    for match in found:
        a, b, result = int(match[1]), int(match[3]), int(match[4])
        assert result == {"+": a + b, "-": a - b, "x": a * b}[match[2]], match[0]


def test_held_out_sums_are_asked_in_the_test_split_only() -> None:
    """A sum of numbers above 10 is of one split only, by its two numbers."""
    for record in RECORDS:
        for message in record.messages:
            match = re.fullmatch(r"(\d+) \+ (\d+) = \d+[.。]", message["content"])
            if match and record.split != "test" and not record.metadata["follow_up"] and len(record.messages) == 2:
                pair = (int(match[1]), int(match[2]))
                assert max(pair) <= 10 or not is_held_out(pair)


def test_wordings_of_the_test_split_never_occur_in_training() -> None:
    patterns = ("(what is|calculate|compute) {a} (plus|+) {b}", "{a} (plus|+) {b}")
    for_test = {one.text for one in wording.wordings(patterns) if one.for_test}
    rng = random.Random(0)
    questions = [wording.ask(patterns, {"a": 1, "b": 2}, "en", rng, for_test=False) for _ in range(300)]
    assert not any(unseen for _, unseen in questions)
    assert all(one.text not in for_test for one in wording.wordings(patterns) if not one.for_test)


@pytest.mark.parametrize("language", wording.LANGUAGES)
@pytest.mark.parametrize("name", sorted(SKILLS))
def test_each_skill_draws_questions_and_follow_ups(name: str, language: str) -> None:
    draw = Draw(random.Random(1), language, for_test=False)
    for _ in range(200):
        turn = SKILLS[name].draw_turn(draw)
        assert turn.question
        assert turn.answer
        follow_up = SKILLS[name].follow_up(turn, draw)
        assert follow_up is None or follow_up.answer


def test_known_answers() -> None:
    assert lists.solve("descending", (3, 1, 2), "en") == "3, 2, 1"
    assert lists.solve("count", ("cat", "dog"), "zh") == "2"
    assert letters.answer("spell", "cat") == "C-A-T"
    assert letters.answer("reverse", "苹果") == "果苹"
    assert calendar_time.MONTHS["zh"][11] == "十二月"
    assert number_forms.write_number(-12, "zh") == "负十二"


def test_number_variants_mean_the_same_number() -> None:
    rng = random.Random(0)
    variants = {number_forms.vary_number(121, "en", rng) for _ in range(200)}
    assert {"one hundred twenty-one", "one hundred and twenty one", "One hundred twenty-one"} <= variants
    assert {number_forms.vary_number(120, "zh", rng) for _ in range(100)} == {"一百二十", "一百二"}
    assert {number_forms.vary_number(2020, "zh", rng) for _ in range(100)} == {"二千零二十", "两千零二十"}


def test_the_closing_mark_fits_the_answer() -> None:
    for record in RECORDS:
        answer = record.messages[-1]["content"]
        assert answer == record.metadata["answer"] + record.metadata["closing"]
        assert record.metadata["closing"] in ".。"


def test_invented_answers_are_in_training_conversations_only() -> None:
    params = skills.Params(num_conversations=1500, exercise_share=0, invented_share=1, seed=3)
    refusal = {refusals.ANSWER[language] + rejections.CLOSING[language] for language in wording.LANGUAGES}
    by_split: dict[bool, set[bool]] = {True: set(), False: set()}
    for record in skills.read(params):
        assert isinstance(record, Conversation)
        if record.metadata["skill"] == refusals.NAME:
            assert record.metadata["answer"] in refusals.ANSWER.values()
            by_split[record.split == "train"].add(record.messages[-1]["content"] in refusal)
    assert by_split == {True: {False}, False: {True}}


def preferences(reason: rejections.Reason, number: int = 400) -> list[Preference]:
    params = skills.Params(num_conversations=0, num_preferences=number, reasons={reason: 1.0}, seed=5)
    return [record for record in skills.read(params) if isinstance(record, Preference)]


@pytest.mark.parametrize("reason", rejections.REASONS)
def test_the_chosen_answer_is_right_and_the_rejected_one_is_not(reason: rejections.Reason) -> None:
    for pair in preferences(reason):
        assert pair.reason == reason
        assert pair.prompt[-1]["role"] == "user"
        assert gold.gold(pair.chosen, pair.metadata) == 1.0
        assert gold.gold(pair.rejected, pair.metadata) < 1.0, pair


@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_unanswerable_questions_come_from_all_patterns(language: str) -> None:
    """Although one pattern has 396 wordings, and others have a handful."""
    draw = Draw(random.Random(0), language, for_test=False)
    drawn = Counter(refusals.draw_pattern(draw) for _ in range(5000))
    assert set(drawn) == set(refusals.PATTERNS[language])
    assert max(drawn.values()) < 4 * 5000 / len(drawn)


def test_no_wording_of_an_unanswerable_question_is_in_both_splits() -> None:
    for patterns in refusals.PATTERNS.values():
        drawn = [each for pattern in patterns for each in wording.wordings((pattern,))]
        assert not {each.text for each in drawn if each.for_test} & {each.text for each in drawn if not each.for_test}


def test_training_has_more_questions_in_capitals_than_the_test() -> None:
    shares = {}
    for for_test in (True, False):
        questions = [
            wording.ask(("what is {thing}",), {"thing": "a cat"}, "en", random.Random(seed), for_test=for_test)[0]
            for seed in range(2000)
        ]
        shares[for_test] = sum(question.isupper() for question in questions) / len(questions)
    assert abs(shares[True] - wording.CAPITALS) < 0.02
    assert abs(shares[False] - wording.TRAIN_CAPITALS) < 0.02


def test_honest_and_helpful_pairs_are_about_refusals() -> None:
    sentences = set(refusals.ANSWER.values())
    expected: dict[rejections.Reason, bool] = {"honest": True, "helpful": False}
    for reason, is_refused in expected.items():
        for pair in preferences(reason):
            assert (pair.chosen[:-1] in sentences) == is_refused
            assert (pair.rejected[:-1] in sentences) != is_refused


def test_a_wrong_answer_has_the_form_of_the_right_one() -> None:
    """Equations keep their numbers but for the result; lists keep their separator; letters stay letters."""
    for pair in preferences("correct"):
        if " = " in pair.chosen:
            assert pair.rejected.split(" = ")[0] == pair.chosen.split(" = ")[0]
        if re.fullmatch(r"([A-Z]-)+[A-Z][.。]", pair.chosen):
            assert re.fullmatch(r"([A-Z]-)*[A-Z][.。]", pair.rejected)


def test_rejected_answers_of_follow_ups_ignore_the_conversation() -> None:
    repeated = [pair.rejected == pair.prompt[-2]["content"] for pair in preferences("follows")]
    assert all(pair.metadata["follow_up"] for pair in preferences("follows"))
    assert 0.3 < sum(repeated) / len(repeated) < 0.7
