"""Progress of long work: a bar with rate and remaining time on a terminal, a plain line every 15 s elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

PLAIN_SECONDS = 15.0
NOTE_SECONDS = 0.2  # between two updates of the note on a terminal


class Progress:
    """Counts units up to `total` (None if unknown) and prints to stderr. Use as a context manager; call `advance`.

    scale: print in millions: 12 MB instead of 12,000,000 B.
    initial: number of units that an earlier run completed; they are excluded from the rate.
    """

    def __init__(self, name: str, total: int | None, unit: str, scale: bool = False, initial: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self._terminal, self._scale = sys.stderr.isatty(), scale
        self._bar = tqdm(
            total=total,
            desc=name,
            unit=unit,
            unit_scale=scale,
            disable=not self._terminal,
            leave=False,
            initial=initial,
        )
        self._count, self._initial, self._start_time = initial, initial, time.monotonic()
        self._last_output = self._start_time

    def advance(self, count: int = 1, note: str | Callable[[], str] = "") -> None:
        """Count `count` more units. `note` is printed after the rate; a function is called only when it is printed."""
        self._count += count
        now = time.monotonic()
        if self._terminal:
            if note and now - self._last_output >= NOTE_SECONDS:
                self._last_output = now
                self._bar.set_postfix_str(_note_text(note), refresh=False)
            self._bar.update(count)
        elif now - self._last_output >= PLAIN_SECONDS:
            self._last_output = now
            print(self._line(_note_text(note)), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        size, unit = (1e6, f"M{self.unit}") if self._scale else (1.0, self.unit)
        rate = (self._count - self._initial) / (time.monotonic() - self._start_time)
        of_total = (
            f"/{self.total / size:.0f} {unit}, ETA {(self.total - self._count) / rate:.0f} s" if self.total else ""
        )
        line = f"{self.name}: {self._count / size:.0f}{of_total or ' ' + unit}, {rate / size:.1f} {unit}/s  {note}"
        return line.rstrip()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()


def _note_text(note: str | Callable[[], str]) -> str:
    return note if isinstance(note, str) else note()
