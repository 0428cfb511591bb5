"""Answers and likelihoods that tasks of the engine compute are those of this process, to the bit."""

from pathlib import Path

import numpy as np
import pytest

from tasks.engine import settings
from tasks.evaluation import batches, continuations
from tasks.evaluation.continuations import Likelihood, Pair
from tasks.evaluation.inputs import EvaluationInputs, SamplingParams
from tests.evaluation import small

SHARED = list(range(10, 40))  # more than MIN_SHARED_TOKENS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_project(tmp_path_factory.mktemp("data"))


def open_inputs(data: Path) -> EvaluationInputs:
    params = SamplingParams(policies=small.POLICIES, num_prompts=8, max_new_tokens=8, batch_size=3, seed=1)
    return EvaluationInputs(data, params)


def pairs() -> list[Pair]:
    """Prompts that share a beginning, each with two continuations; others; and a pair with nothing to predict."""
    shared = [Pair([*SHARED, 50 + n // 2], [60 + n, 61, 62 + n % 3]) for n in range(14)]
    others = [Pair([100 + n, 101], list(range(110, 112 + n % 4))) for n in range(7)]
    return [*shared[:7], *others, Pair([5, 6], []), *shared[7:]]


def numbers(scored: list[Likelihood]) -> list[tuple[list[float], bool]]:
    return [(one.log_probs.tolist(), one.is_greedy) for one in scored]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_engine_gives_the_same_answers_and_likelihoods(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """8 prompts in batches of 3 are 3 tasks. Sampled answers have the random numbers of their prompts."""
    local = open_inputs(data)
    answers = [local.answers("sft", greedy) for greedy in (True, False)]
    scored = batches.likelihoods(local.source("sft"), pairs(), 4)
    num_tasks = small.use_engine(monkeypatch, tmp_path, workers)
    inputs = open_inputs(data)
    assert [inputs.answers("sft", greedy) for greedy in (True, False)] == answers
    assert numbers(batches.likelihoods(inputs.source("sft"), pairs(), 4)) == numbers(scored)
    assert num_tasks[:2] == [3, 3]
    assert num_tasks[2] > 3
    assert len({tuple(answer.ids) for answer in answers[1]}) == 8
    assert not list((tmp_path / batches.RUN).iterdir())


def test_the_parts_of_prompts_with_one_beginning(data: Path) -> None:
    """7 rows share 30 tokens and are read 4 at a time; 7 pairs of other prompts are put together 4 at a time."""
    parts = list(continuations.parts(open_inputs(data).model("sft"), pairs(), 4))
    shared = [part for part in parts if part.start]
    assert {part.start for part in shared} == {len(SHARED)}
    assert sorted(row for part in shared for row in part.rows) == list(range(7))
    assert all(part.numbers == shared[0].numbers and len(part.numbers) == 14 for part in shared)
    others = [part.numbers for part in parts if not part.start]
    assert sorted(np.concatenate(others).tolist()) == list(range(7, 14))
    assert max(map(len, others)) == 4


def test_another_model_is_not_confused_with_the_loaded_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [open_inputs(data).answers(name, greedy=True) for name in ("sft", "ppo", "sft")]
    small.use_engine(monkeypatch, tmp_path, 0)
    assert [open_inputs(data).answers(name, greedy=True) for name in ("sft", "ppo", "sft")] == expected
    assert expected[0] != expected[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_answers(cluster: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = open_inputs(data)
    answers, scored = local.answers("sft", greedy=False), batches.likelihoods(local.source("sft"), pairs(), 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert open_inputs(data).answers("sft", greedy=False) == answers
    assert numbers(batches.likelihoods(local.source("sft"), pairs(), 4)) == numbers(scored)
