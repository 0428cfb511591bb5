"""Can a promotion be trusted? A/A comparisons, items that pairing saves, planted regressions, kills in promotions.

- 1,000 comparisons of two models that are equal: how many of them promote (simulated scores of three kinds).
- Two models whose scores correlate by .6: items that a paired and an unpaired test need for 80 % power (simulated).
- Planted regressions, of really trained small classifiers, through registration and promotion on disk: how many are
  refused. Real improvements go the same way, because a gate that refuses everything would refuse regressions too.
- 200 processes that are killed (SIGKILL) at different writes of update, promote and rollback: how many leave an alias
  on a model without a passing report, or a log or links that the next command does not repair.

make bench NAME=promotion
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import promotion_runs as runs
from tasks import promotion
from tasks.comparison import paired
from tasks.errors import UserError
from tasks.files import read_json, sha256, write_json
from tasks.promotion import Params, log, versions
from tasks.promotion.decision import obstacles

NUM_COMPARISONS, NUM_ITEMS = 1000, 200
CORRELATION, EFFECT, NUM_POWER_RUNS = 0.6, 0.3, 200
NUM_KILLS, CHILD_SECONDS = 200, 120
SAVED = Path(".bench/promotion.json")
PARAMS = Params(primary=("benchmarks.vectors.accuracy.MODEL",))
IMPROVEMENTS = (4, 6, 8, 10, 12)  # times the data of the champion


def main() -> None:
    """Measure and print all results, the last line as JSON. Parts that an interrupted run has completed are kept."""
    key = hashlib.sha256(b"".join(path.read_bytes() for path in _sources())).hexdigest()
    saved = read_json(SAVED) if SAVED.is_file() else {}
    parts = dict(saved["parts"]) if saved.get("key") == key else {}
    for part in (kills, planted, equal_models, items_saved):
        if part.__name__ not in parts:
            start = time.perf_counter()
            parts[part.__name__] = part()
            print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            write_json(SAVED, {"key": key, "parts": parts})
        print(f"{part.__name__}: {json.dumps(parts[part.__name__])}", flush=True)
    SAVED.unlink()
    print(json.dumps({name: value for own in parts.values() for name, value in own.items()}))


def _sources() -> list[Path]:
    """The code whose results are measured: a saved part of other code does not count."""
    folders = [Path(paired.__file__).parent, Path(log.__file__).parent]
    return [Path(__file__), Path(runs.__file__), *sorted(path for folder in folders for path in folder.glob("*.py"))]


def equal_models() -> dict[str, Any]:
    """Share of comparisons of equal models that would promote the first: right/wrong, skewed and grouped scores."""
    generator, promoted = np.random.default_rng(0), 0
    for index in range(NUM_COMPARISONS):
        groups: list[str] = []
        if index % 3 == 0:
            difficulty = generator.random(NUM_ITEMS)
            a, b = (generator.random((2, NUM_ITEMS)) < difficulty).astype(np.float64)
        elif index % 3 == 1:
            a, b = generator.exponential(1 + generator.random(NUM_ITEMS), (2, NUM_ITEMS))
        else:
            groups = [f"g{item // 5}" for item in range(NUM_ITEMS)]
            of_groups = np.repeat(generator.normal(0, 1, (2, NUM_ITEMS // 5)), 5, axis=1)
            a, b = of_groups + generator.normal(0, 0.5, (2, NUM_ITEMS))
        test = paired.compare(a, b, groups)
        promoted += test.low > 0 and test.p_value < 0.05
    return {"comparisons": NUM_COMPARISONS, "aa_promoted": promoted / NUM_COMPARISONS}


def items_saved() -> dict[str, Any]:
    """The smallest numbers of items with 80 % power, found by simulation, and their ratio.

    An unpaired test compares two models that answered different items. Applied to the same items, which it is not made
    for, it needs fewer of them, because their correlation makes the difference vary less than the test assumes.
    """
    from scipy.stats import ttest_ind

    generator = np.random.default_rng(1)

    def power(n: int, correlation: float, is_paired: bool) -> float:
        common = generator.normal(size=(NUM_POWER_RUNS, 1, n)) * np.sqrt(correlation)
        scores = common + generator.normal(size=(NUM_POWER_RUNS, 2, n)) * np.sqrt(1 - correlation)
        scores[:, 0] += EFFECT
        if not is_paired:
            return float((ttest_ind(scores[:, 0], scores[:, 1], axis=1).pvalue < 0.05).mean())
        return float(np.mean([paired.compare(*own).p_value < 0.05 for own in scores]))

    def needed(correlation: float, is_paired: bool) -> int:
        low, high = 20, 400
        while high - low > 4:
            middle = (low + high) // 2
            low, high = (low, middle) if power(middle, correlation, is_paired) >= paired.POWER else (middle, high)
        return high

    items_paired, items_unpaired = needed(CORRELATION, True), needed(0.0, False)
    same_items = needed(CORRELATION, False)
    return {
        "items_paired": items_paired,
        "items_unpaired": items_unpaired,
        "items_unpaired_test_of_same_items": same_items,
        "items_saved": round(items_unpaired / items_paired, 2),
        "items_saved_by_the_test_alone": round(same_items / items_paired, 2),
    }


def planted() -> dict[str, Any]:
    """Regressions and improvements against the same champion."""
    train_set, test = runs.make_data(1, runs.NUM_TRAIN), runs.make_data(2, runs.NUM_TEST)
    champion = runs.train(*train_set)
    refused, reasons, promoted = 0, {}, 0
    faults = runs.regressions(train_set, test)
    for name, plant in faults.items():
        outcome, reason = _attempt(champion, test, plant)
        reasons[name] = reason
        refused += not outcome
        print(f"{'refused ' if not outcome else 'PROMOTED'} {name}: {reason[:150]}", file=sys.stderr, flush=True)
    for factor in IMPROVEMENTS:
        weights = runs.train(*runs.make_data(1, factor * runs.NUM_TRAIN), steps=600)
        outcome, reason = _attempt(champion, test, partial(_write_run, weights=weights, test=test))
        promoted += outcome
        print(f"{'promoted' if outcome else 'REFUSED '} {factor} times the data: {reason[:150]}", file=sys.stderr)
    return {
        "regressions": len(faults),
        "refused": refused,
        "improvements": len(IMPROVEMENTS),
        "improvements_promoted": promoted,
    }


def _write_run(data: Path, weights: runs.Array, test: Any) -> None:
    runs.write_run(data, weights, test)


def _attempt(champion: runs.Array, test: Any, plant: Callable[[Path], None]) -> tuple[bool, str]:
    """Whether a run is promoted over the champion, and why."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        runs.write_run(data, champion, test)
        promotion.update(data, PARAMS, runs.STAGES, {})
        plant(data)
        try:
            outcome = promotion.update(data, PARAMS, runs.STAGES, {})
        except UserError as error:
            return promotion.status(data).champion != 1, str(error)
        assert outcome.decision
        return outcome.promoted, outcome.decision.reason


def kills() -> dict[str, Any]:
    """Kill processes at writes that are evenly spread over a sequence of all commands."""
    test = runs.make_data(2, 60)
    prepared = [np.full(60, 0.0), np.r_[np.ones(20), np.zeros(40)], np.r_[np.ones(20), np.zeros(40)], np.ones(60)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        num_writes = _count_writes(root / "count", prepared, test)
        points = np.linspace(1, num_writes, NUM_KILLS).round().astype(int)
        orphans = 0
        for index, point in enumerate(points):
            data = root / str(index)
            was_killed = _in_child(partial(_sequence, data, prepared, test, int(point)))
            problem = "the process was not killed" if not was_killed else _problem(data)
            if problem:
                orphans += 1
                print(f"kill at write {point} of {num_writes}: {problem}", file=sys.stderr, flush=True)
            shutil.rmtree(data)
    return {"kills": NUM_KILLS, "writes": int(num_writes), "orphans": orphans}


def _count_writes(data: Path, prepared: list[runs.Array], test: Any) -> int:
    file = data.parent / "writes"
    _in_child(lambda: file.write_text(str(_sequence(data, prepared, test, sys.maxsize))))
    return int(file.read_text())


def _sequence(data: Path, prepared: list[runs.Array], test: Any, kill_at: int) -> int:
    """First champion, a better model, a tie, a failed gate, rollback, promotion by hand; killed at a write.

    Returns the number of writes. Those of the runs themselves are not counted.
    """
    counter = _Counter(kill_at)
    for index, scores in enumerate(prepared):
        digest = runs.write_model(data, np.full((2, 2), float(index)))
        runs.write_report(data, scores, digest, test, gates_failed=int(index == len(prepared) - 1))
        counter.call(lambda: promotion.update(data, PARAMS, runs.STAGES, {}))
    counter.call(lambda: promotion.rollback(data, PARAMS))
    counter.call(lambda: promotion.promote(data, 2, PARAMS))
    counter.call(lambda: promotion.promote(data, 3, PARAMS, force=True))
    counter.call(lambda: promotion.rollback(data, PARAMS))
    return counter.num_writes


class _Counter:
    """Counts what changes files, by Python's audit events and by os.write and os.fsync, and kills at one of them."""

    EVENTS = ("os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")

    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.num_writes, self.is_active = kill_at, 0, False
        self._write, self._fsync = os.write, os.fsync
        os.write, os.fsync = self._counted_write, self._counted_fsync  # type: ignore[assignment]
        sys.addaudithook(self._on_event)

    def call(self, command: Callable[[], object]) -> None:
        self.is_active = True
        command()
        self.is_active = False

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if self.is_active and (is_write or event in self.EVENTS):
            self._count()

    def _counted_write(self, descriptor: int, content: Any) -> int:
        if self.is_active and self._count(is_last=False):
            self._write(descriptor, content[: len(content) // 2])  # a kill in the middle of a write
            os.kill(os.getpid(), signal.SIGKILL)
        return self._write(descriptor, content)

    def _counted_fsync(self, descriptor: int) -> None:
        if self.is_active:
            self._count()
        self._fsync(descriptor)

    def _count(self, is_last: bool = True) -> bool:
        self.num_writes += 1
        if self.num_writes == self.kill_at and is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.num_writes == self.kill_at


def _in_child(work: Callable[[], object]) -> bool:
    """Call `work` in a copy of this process. Return whether it was killed by SIGKILL (of its own, not ours)."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(CHILD_SECONDS)
            work()
            os._exit(0)
        except BaseException as error:  # the parent must not continue twice
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _problem(data: Path) -> str:
    """What is wrong with aliases and log after a kill, and after the next command; "" if nothing is."""
    for moment in ("after the kill", "after the next command"):
        try:
            state = promotion.status(data)
        except UserError as error:
            return f"{moment}: {error}"
        numbers = {number for number in (state.champion, state.candidate) if number}
        for alias in ("champion", "candidate"):
            path = data / "models" / alias
            if path.is_symlink():
                numbers.add(int(path.resolve().parent.name))
        for number in numbers:
            try:
                version = promotion.read_version(promotion.root_of(data), number)
                versions.verify(promotion.root_of(data), version)
                subject = promotion.subject(promotion.root_of(data), version)
            except UserError as error:
                return f"{moment}: {error}"
            if problems := obstacles(subject, PARAMS.settings, version.digest):
                return f"{moment}: {problems[0]}"
            if sha256(promotion.root_of(data) / "versions" / str(number) / "model" / "manifest.json") != version.digest:
                return f"{moment}: version {number} is another model"
        if moment == "after the kill":
            promotion.update(data, PARAMS, runs.STAGES, {})
    log.read(promotion.root_of(data))
    champion = data / "models" / "champion"
    is_right = champion.is_symlink() and int(champion.resolve().parent.name) == promotion.status(data).champion
    return "" if is_right else "the link does not show the champion of the log"


if __name__ == "__main__":
    main()
