"""Threads change neither the order nor the results."""

import sys
from collections.abc import Iterator

import pytest

from tasks.curation.threads import SWITCH_SECONDS, ProducerFailed, map_in_threads, parallel_consumers


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_few_parts_are_read_ahead(threads: int) -> None:
    read: list[int] = []

    def parts() -> Iterator[int]:
        for i in range(30):
            read.append(i)
            yield i

    for number, result in enumerate(map_in_threads(lambda i: i * i, parts(), threads)):
        assert result == number * number
        assert len(read) <= number + 1 + 2 * threads


def test_each_consumer_receives_its_parts_in_order() -> None:
    received: list[list[int]] = [[], []]
    with parallel_consumers(received[0].extend, received[1].extend) as (send_first, send_second):
        for i in range(10):
            send_first(i)
            send_second(-i)
    assert received == [list(range(10)), [-i for i in range(10)]]


def test_a_block_that_fails_ends_the_consumers_with_an_error() -> None:
    endings: list[str] = []

    def consume(parts: Iterator[int]) -> None:
        try:
            list(parts)
        except ProducerFailed:
            endings.append("producer failed")
            raise

    def block() -> None:
        with parallel_consumers(consume, consume) as (send_first, _):
            send_first(1)
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert endings == ["producer failed"] * 2


@pytest.mark.parametrize("num_parts", [0, 1, 9])
def test_a_consumer_that_fails_fails_the_block(num_parts: int) -> None:
    def fail(parts: Iterator[int]) -> None:
        raise OSError("the disk is full")

    def block() -> None:
        with parallel_consumers(fail, list) as (send_first, _):
            for i in range(num_parts):
                send_first(i)

    with pytest.raises(OSError, match="the disk is full"):
        block()


def test_threads_switch_quickly_while_parts_are_worked_on_and_as_before_afterwards() -> None:
    default_seconds = sys.getswitchinterval()
    seconds_inside = list(map_in_threads(lambda _: sys.getswitchinterval(), range(3), 2))
    assert seconds_inside == [pytest.approx(SWITCH_SECONDS)] * 3
    assert sys.getswitchinterval() == default_seconds
