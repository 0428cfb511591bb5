"""Threads that change neither order nor outcome."""

import sys
from collections.abc import Iterator

import pytest

from tasks.curation.threads import SWITCH_SECONDS, Abandoned, ahead, fed


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_few_parts_are_read_ahead(threads: int) -> None:
    read: list[int] = []

    def parts() -> Iterator[int]:
        for i in range(30):
            read.append(i)
            yield i

    for place, result in enumerate(ahead(lambda i: i * i, parts(), threads)):
        assert result == place * place
        assert len(read) <= place + 1 + 2 * threads


def test_what_is_given_arrives() -> None:
    got: list[list[int]] = [[], []]
    with fed(got[0].extend, got[1].extend) as (left, right):
        for i in range(10):
            left(i)
            right(-i)
    assert got == [list(range(10)), [-i for i in range(10)]]


def test_a_block_that_fails_ends_the_works_with_an_error() -> None:
    ended: list[str] = []

    def work(parts: Iterator[int]) -> None:
        try:
            list(parts)
        except Abandoned:
            ended.append("abandoned")
            raise

    def block() -> None:
        with fed(work, work) as (left, _):
            left(1)
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert ended == ["abandoned"] * 2


@pytest.mark.parametrize("given", [0, 1, 9])
def test_a_work_that_fails_fails_the_block(given: int) -> None:
    def full(parts: Iterator[int]) -> None:
        raise OSError("the disk is full")

    def block() -> None:
        with fed(full, list) as (left, _):
            for i in range(given):
                left(i)

    with pytest.raises(OSError, match="the disk is full"):
        block()


def test_threads_switch_quickly_while_parts_are_worked_on_and_as_before_afterwards() -> None:
    before = sys.getswitchinterval()
    inside = list(ahead(lambda _: sys.getswitchinterval(), range(3), 2))
    assert inside == [pytest.approx(SWITCH_SECONDS)] * 3
    assert sys.getswitchinterval() == before
