"""Work on one part after another in several threads, with the results in order and few parts in memory."""

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

SWITCH_SECONDS = 0.0005  # for how long a thread that is back from a kernel waits for Python's lock; by default 5 ms

Part = TypeVar("Part")
Result = TypeVar("Result")
Told = Callable[[int], object]
"""Called with how much more is done."""


def nobody(_: int) -> None:
    """Where nobody is told."""


def ahead(work: Callable[[Part], Result], parts: Iterable[Part], num_threads: int) -> Iterator[Result]:
    """`work` of each part, in order; at most two parts a thread are read before their turn. One thread: none is.

    There is one more thread than asked for, to compute while two others want Python's lock.
    """
    if num_threads == 1:
        yield from map(work, parts)
        return
    waiting = deque[Future[Result]]()
    with undisturbed(), ThreadPoolExecutor(num_threads + 1) as pool:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block threads hand Python's lock over sooner, and garbage is only looked for in what is new.

    A look through all objects of the libraries takes a tenth of a second, in which no thread runs.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


@contextmanager
def fed(*works: Callable[[Iterator[Part]], object]) -> Iterator[list[Callable[[Part], None]]]:
    """Run each of `works` in a thread; what the block hands to the i-th function, the i-th work iterates over.

    All end with the block, at once. Where the block raises, their iteration raises Abandoned; what one of them raises
    is raised here.
    """
    queues: list[Queue[Part | _End]] = [Queue(2) for _ in works]
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, _taken(queue)) for work, queue in zip(works, queues, strict=True)]

        def give(place: int, part: Part | _End) -> None:
            while not running[place].done():
                with suppress(Full):
                    queues[place].put(part, timeout=0.1)
                    return
            if part is not _End.ABANDONED:
                running[place].result()

        try:
            yield [partial(give, place) for place in range(len(works))]
            for place in range(len(works)):
                give(place, _End.REACHED)
        except BaseException:
            for place in range(len(works)):
                give(place, _End.ABANDONED)
            raise
        for work in running:
            work.result()


class Abandoned(Exception):
    """Whoever handed over the parts has failed: what was made of those before is to be thrown away."""


class _End(Enum):
    REACHED = 0
    ABANDONED = 1


def _taken(queue: "Queue[Part | _End]") -> Iterator[Part]:
    while not isinstance(part := queue.get(), _End):
        yield part
    if part is _End.ABANDONED:
        raise Abandoned
