"""SIGTERM and Ctrl-C wait for the end of a step, where the weights are whole and a checkpoint can be written."""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Holds SIGINT and SIGTERM back inside its block until `take_effect`; a second one takes effect at once.

    Whoever handled the signal before (Python: KeyboardInterrupt; Prefect: its TerminationSignal) then gets it as ever.
    In other threads than the main one, which never see signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hold) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        self.take_effect()

    def take_effect(self) -> None:
        """Deliver the signal that was held back, if there was one."""
        if self.asked is not None:
            number, self.asked = self.asked, None
            self._give_back()
            signal.raise_signal(number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.take_effect()
        self.asked = number

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
