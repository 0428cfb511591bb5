"""The simulated crowd errs as often as its members are meant to."""

from typing import Any

from tasks.feedback import Crowd, Member

ANSWERS = [{"text": "bad, and long"}, {"text": "good"}]


def measure(text: str) -> float:
    return float(text == "good")


def votes(member: Member, count: int = 1000) -> tuple[list[dict[str, Any]], Crowd]:
    crowd = Crowd([member], seed=1)
    return [crowd.compare(member, [], ANSWERS, measure) for _ in range(count)], crowd


def share_of_good(member: Member) -> float:
    records, _ = votes(member)
    return float(sum(record["choice"] == 1 for record in records) / len(records))


def test_members_by_their_errors() -> None:
    """1000 votes: a share differs from its expectation by less than 0.05, which is three standard errors."""
    assert abs(share_of_good(Member("m")) - 0.9) < 0.05
    assert abs(share_of_good(Member("m", flip_share=0.5)) - 0.5) < 0.05
    assert abs(share_of_good(Member("m", flip_share=0.0, first_share=1.0)) - 0.5) < 0.05
    assert abs(share_of_good(Member("m", flip_share=0.0, length_share=0.4)) - 0.6) < 0.05
    assert share_of_good(Member("m", poison_share=1.0)) == 0


def test_the_crowd_knows_which_votes_are_wrong() -> None:
    records, crowd = votes(Member("m", flip_share=0.1, poison_share=0.05))
    wrong = {record["id"] for record in records if record["choice"] == 0}
    assert wrong == crowd.poisoned | crowd.mistaken
    assert not crowd.poisoned & crowd.mistaken
    assert crowd.right == {record["id"] for record in records} - wrong


def test_a_vote_for_the_first_answer_may_be_right() -> None:
    records, crowd = votes(Member("m", first_share=1.0))
    assert crowd.right == {record["id"] for record in records if record["choice"] == 1}
    assert not crowd.mistaken


def test_equal_answers_are_a_tie_except_at_chance_level() -> None:
    same = [{"text": "good"}, {"text": "good"}]
    member, random_member = Member("m"), Member("r", flip_share=0.5)
    assert Crowd([member]).compare(member, [], same, measure)["choice"] == "tie"
    assert Crowd([random_member]).compare(random_member, [], same, measure)["choice"] in (0, 1)


def test_voters_of_an_item_are_different_and_follow_their_weights() -> None:
    crowd = Crowd([*(Member(str(n)) for n in range(4)), Member("rare", weight=0.1)])
    drawn = [crowd.voters(2) for _ in range(500)]
    assert all(len({one.name for one in pair}) == 2 for pair in drawn)
    assert sum(any(one.name == "rare" for one in pair) for pair in drawn) < 60
