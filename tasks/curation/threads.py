"""Run one function on many parts in several threads: results come in order, and few parts are in memory at once."""

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from queue import Full, Queue
from typing import TypeVar

SWITCH_SECONDS = 0.0005  # longest wait of a thread that returns from a kernel for Python's lock; the default is 5 ms

QUEUE_PARTS = 2  # parts that wait in the queue of each consumer
PUT_SECONDS = 0.1  # how often a full queue's consumer is checked for an error

Part = TypeVar("Part")
Result = TypeVar("Result")
ProgressCallback = Callable[[int], object]
"""A function that receives the amount of work done since its last call."""


def ignore_progress(_: int) -> None:
    """A ProgressCallback that does nothing."""


def map_in_threads(function: Callable[[Part], Result], parts: Iterable[Part], num_threads: int) -> Iterator[Result]:
    """Yield `function(part)` for each part, in the order of the parts.

    With one thread this is `map`. Otherwise at most two parts per thread are read before their results are needed. The
    pool has one thread more than `num_threads`: kernels release Python's lock, so that one thread can compute while two
    others wait for the lock.
    """
    if num_threads == 1:
        yield from map(function, parts)
        return
    pending = deque[Future[Result]]()
    with fast_thread_switching(), ThreadPoolExecutor(num_threads + 1) as pool:
        for part in parts:
            pending.append(pool.submit(function, part))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def fast_thread_switching() -> Iterator[None]:
    """Within the block, threads release Python's lock sooner, and garbage collection ignores existing objects.

    A full collection visits all objects of the imported libraries. This takes 0.1 seconds, in which no thread runs.
    """
    default_seconds = sys.getswitchinterval()
    sys.setswitchinterval(min(default_seconds, SWITCH_SECONDS))
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(default_seconds)


@contextmanager
def parallel_consumers(*consumers: Callable[[Iterator[Part]], object]) -> Iterator[list[Callable[[Part], None]]]:
    """Run each consumer in its own thread. The block receives one function per consumer, which sends it a part.

    The consumer iterates over the parts in the order in which the block sends them. All consumers have ended when the
    block ends. If the block raises, their iteration raises ProducerFailed, so that a consumer can discard its
    unfinished output. If a consumer raises, the next part sent to it, or the end of the block, raises that error.
    """
    queues: list[Queue[Part | _End]] = [Queue(QUEUE_PARTS) for _ in consumers]
    with ThreadPoolExecutor(len(consumers)) as pool:
        futures = [pool.submit(consumer, _iterate(queue)) for consumer, queue in zip(consumers, queues, strict=True)]

        def send(consumer: int, part: Part | _End) -> None:
            # A consumer that has failed no longer empties its queue: a put without a timeout would wait forever.
            while not futures[consumer].done():
                with suppress(Full):
                    queues[consumer].put(part, timeout=PUT_SECONDS)
                    return
            if part is not _End.FAILURE:
                futures[consumer].result()

        try:
            yield [partial(send, consumer) for consumer in range(len(consumers))]
            for consumer in range(len(consumers)):
                send(consumer, _End.SUCCESS)
        except BaseException:
            for consumer in range(len(consumers)):
                send(consumer, _End.FAILURE)
            raise
        for future in futures:
            future.result()


class ProducerFailed(Exception):
    """The block that sends the parts has failed: discard what was made of the parts before."""


class _End(Enum):
    """The last item of a queue."""

    SUCCESS = 0
    FAILURE = 1


def _iterate(queue: "Queue[Part | _End]") -> Iterator[Part]:
    """Yield the parts of a queue until its end."""
    while not isinstance(part := queue.get(), _End):
        yield part
    if part is _End.FAILURE:
        raise ProducerFailed
