"""When a model may become the champion, which pairs a round trains on, and which answers rejection sampling keeps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import round as command
from tasks import tables
from tasks.conversations import PREFERENCES
from tasks.errors import BadParams, NothingLeft
from tasks.files import write_json
from tasks.pairs import Prompts
from tasks.rounds import mixing, rejection
from tasks.rounds.measures import Answers, gate, paired
from tasks.rounds.rejection import reward_function
from tasks.rounds.tasks import over_optimization

GOOD = {"gold_gain": 0.1, "gold_standard_error": 0.02, "gold_candidate": 0.8, "kl_to_first": 1.0, "win_rate": 0.6,
        "score_start": 0.0, "score_candidate": 1.0}  # fmt: skip


def pair(number: int, split: str = "train", **metadata: Any) -> dict[str, Any]:
    return {
        "id": f"pair{number}", "prompt": [{"role": "user", "content": f"q{number}"}], "chosen": "a", "rejected": "b",
        "reason": "", "source": "feedback", "group": f"g{number}", "split": split, "metadata": json.dumps(metadata),
    }  # fmt: skip


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with tables.Writer(folder, PREFERENCES) as writer:
        for row in rows:
            writer.add_row(row)
    return folder


def ids(folder: Path) -> list[str]:
    return sorted(tables.read(folder)["id"].to_pylist())


def test_the_gain_of_gold_by_hand() -> None:
    """Differences 1, 0, 0, 0: mean 0.25, standard deviation 0.5, standard error 0.25."""
    numbers = paired([0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    assert (numbers["gold_start"], numbers["gold_candidate"]) == (0.5, 0.75)
    assert (numbers["gold_gain"], numbers["gold_standard_error"]) == (0.25, 0.25)


def test_a_better_model_passes() -> None:
    assert gate(GOOD, 10.0, []) == []


def test_a_model_that_did_not_change_is_no_new_model() -> None:
    (reason,) = gate({**GOOD, "gold_gain": 0.0, "kl_to_start": -0.0}, 10.0, [])
    assert "answers as the model that the round began with" in reason


def test_a_fall_of_gold_beside_a_rise_of_the_score_is_over_optimization() -> None:
    """A fall of 0.05 is more than two standard errors of 0.02; one of 0.03 is not."""
    (reason,) = gate({**GOOD, "gold_gain": -0.05}, 10.0, [])
    assert reason.startswith("over-optimization")
    assert gate({**GOOD, "gold_gain": -0.03}, 10.0, []) == []


def test_kl_and_earlier_rounds_limit_a_model() -> None:
    assert "KL to the first model is 11" in gate({**GOOD, "kl_to_first": 11.0}, 10.0, [])[0]
    assert "earlier round" in gate({**GOOD, "gold_candidate": 0.5}, 10.0, [{"gold_candidate": 0.8}])[0]


def test_without_verifiable_answers_the_win_rate_decides() -> None:
    unverifiable = {name: value for name, value in GOOD.items() if not name.startswith("gold")}
    assert gate(unverifiable, 10.0, []) == []
    assert "win rate 0.5" in gate({**unverifiable, "win_rate": 0.5}, 10.0, [])[0]


def test_a_model_with_one_answer_to_everything_does_not_pass_by_its_win_rate() -> None:
    null = {"kl_to_first": 1.0, "win_rate": 1.0, "most_common_start": 0.3, "most_common_candidate": 0.95}
    assert "95% of its answers are the same text" in gate(null, 10.0, [])[0]
    assert gate({**null, "most_common_candidate": 0.5}, 10.0, []) == []
    assert gate({**null, "most_common_start": 0.9}, 10.0, []) == []


def test_the_report_warns_of_over_optimization() -> None:
    assert over_optimization([{"round": 1, **GOOD}]) is None
    warning = over_optimization([{"round": 2, **GOOD, "gold_gain": -0.01}])
    assert warning is not None
    assert "gold falls by 0.01" in warning


def test_pairs_are_new_or_replayed(tmp_path: Path) -> None:
    """Two new pairs, three of earlier rounds, four train pairs of the pipeline; a share of 1 replays one of each."""
    rows = [pair(n, actions=[f"vote{n}"]) for n in range(5)]
    write(tmp_path / "preferences/curated", rows)
    base = write(tmp_path / "base", [pair(n) for n in range(10, 14)] + [pair(20, "test")])
    counts = mixing.divide(tmp_path, {"vote0", "vote1", "other"}, base, 1.0, 0)
    assert counts == {"new_pairs": 2, "replayed_votes": 1, "replayed_pairs": 1, "held_out_pairs": 0}
    assert ids(tmp_path / "preferences/new") == ["pair0", "pair1"]
    assert len(ids(tmp_path / "replay/preferences/curated")) == 4
    assert mixing.divide(tmp_path, {"vote0"}, base, 20.0, 0) == {
        "new_pairs": 1, "replayed_votes": 4, "replayed_pairs": 4, "held_out_pairs": 0,
    }  # fmt: skip
    with pytest.raises(NothingLeft, match="none of the 1 votes"):
        mixing.divide(tmp_path, {"other"}, base, 1.0, 0)


def test_pairs_about_held_out_questions_are_left_out(tmp_path: Path) -> None:
    """Questions of test and validation; not the last message of a longer conversation, and not one for training."""
    questions = {"test": [("one", 1), ("three", 2)], "validation": [("two", 1)], "train": [("four", 1)]}
    for split, rows_of_split in questions.items():
        (tmp_path / "prompts" / split).mkdir(parents=True)
        body = [{"text": text, "turn": turn} for text, turn in rows_of_split]
        write_json(tmp_path / "prompts" / split / "metadata.json", body)
    held_out = mixing.held_out_questions(tmp_path)
    assert held_out == {"one", "two"}
    rows = [pair(n, actions=[f"vote{n}"]) for n in range(3)]
    rows[0]["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "one"}]
    rows[1]["prompt"] = [{"role": role, "content": "one"} for role in ("user", "assistant", "user")]
    write(tmp_path / "preferences/curated", rows)
    counts = mixing.divide(tmp_path, {"vote0", "vote1", "vote2"}, tmp_path / "none", 1.0, 0, held_out)
    assert (counts["new_pairs"], counts["held_out_pairs"]) == (2, 1)
    assert ids(tmp_path / "preferences/new") == ["pair1", "pair2"]
    with pytest.raises(NothingLeft, match="1 pairs are about held-out questions"):
        mixing.divide(tmp_path, {"vote0"}, tmp_path / "none", 1.0, 0, held_out)


def test_reward_functions() -> None:
    metadata = {"answer": "five", "closing": "."}
    assert reward_function("gold")("five.", metadata) == 1
    assert reward_function("tasks.gold:gold")("six", metadata) == 0
    with pytest.raises(BadParams, match="neither gold nor"):
        reward_function("nothing")


def test_settings_of_the_command() -> None:
    args = command.parse(["--method", "ppo", "--min-votes", "7", "--set", "dpo.steps=5", "--set", "max_kl=3"])
    params = command.round_params(args)
    assert (params.method, params.min_votes, params.max_kl, params.changes) == ("ppo", 7, 3.0, {"dpo": {"steps": 5}})
    with pytest.raises(BadParams, match="KEY=VALUE"):
        command.round_params(command.parse(["--set", "dpo"]))
    with pytest.raises(BadParams, match="max_kl"):
        command.round_params(command.parse(["--set", "max_kl=-1"]))


def test_the_best_finished_answer_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 3 and 1: the better answer of "a" was cut off. "b" has equal scores, and no answer to "c" is finished."""
    metadata = [{"text": text, "turn": 1} for text in "abc"]
    scores = {"a1": 3.0, "a2": 1.0, "a3": 0.0, "b1": 1.0, "b2": 1.0, "b3": 1.0, "c1": 2.0, "c2": 1.0, "c3": 0.0}
    finished = {1: [False, True, False], 2: [True, True, False], 3: [True, True, False]}

    def answer(_: Any, __: Any, prompts: Prompts, ___: int, seed: int) -> Answers:
        number = seed - 999
        texts = [f"{one['text']}{number}" for one in prompts.metadata]
        return Answers([], [], [], texts, finished[number])

    monkeypatch.setattr(rejection, "answer", answer)
    monkeypatch.setattr(rejection, "read_prompts", lambda *_, **__: Prompts([np.array([1])] * 3, metadata, 0))
    monkeypatch.setattr("tasks.models.load_causal", lambda _: (None, None))
    monkeypatch.setattr(rejection, "reward_function", lambda _: lambda text, __: scores[text])
    rows, counts = rejection.best_answers(
        tmp_path, None, "own", tmp_path, num_prompts=3, num_answers=3, max_new_tokens=4, seed=1
    )
    assert [row["messages"][1]["content"] for row in rows] == ["a2"]
    assert (counts["without_difference"], counts["cut_off"]) == (2, 4)
