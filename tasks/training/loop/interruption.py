"""Delay SIGTERM and Ctrl-C until the end of a step, when the weights are consistent and can be saved."""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its block, SIGINT and SIGTERM are delayed until `deliver`; a second signal is delivered at once.

    The previous handler (of Python: KeyboardInterrupt; of Prefect: TerminationSignal) then receives the signal. Outside
    of the main thread, where Python delivers no signals, the class does nothing.
    """

    def __init__(self) -> None:
        self.pending_signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        # signal.signal raises ValueError in other threads; Prefect may run a task in one.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hold) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()
        self.deliver()

    def deliver(self) -> None:
        """Deliver the delayed signal, if there is one."""
        if self.pending_signal is not None:
            number, self.pending_signal = self.pending_signal, None
            self._restore_handlers()  # first, or the signal would come back to `_hold`
            signal.raise_signal(number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.pending_signal is not None:  # the second signal: somebody does not want to wait for the step
            self.deliver()
        self.pending_signal = number

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
