"""The end of a server in bounded time: answers may be completed for a while, then they end with an error."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

ANSWER_SECONDS = 20.0  # in which answers that have begun, or wait, can be completed
CONNECTION_SECONDS = 25  # after which connections are cut whose clients do not read what they asked for
EXIT_SECONDS = 30.0  # after which the process ends, whatever it does


class Server(uvicorn.Server):
    """A server of uvicorn. end_answers: ends the answers that are not complete, in a thread.

    is_process: whether the process ends with the server, at most EXIT_SECONDS after its end has begun.
    """

    def __init__(
        self, app: Any, end_answers: Callable[[], object], *, is_process: bool = False, **settings: Any
    ) -> None:
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=CONNECTION_SECONDS, **settings))
        self._end_answers, self._is_process = end_answers, is_process

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, and end those that are open."""
        if self._is_process:
            # Every vote is on disk before it is acknowledged, so that nothing is lost by an abrupt end.
            timer = threading.Timer(EXIT_SECONDS, _exit)
            timer.daemon = True
            timer.start()
        ending = asyncio.ensure_future(self._end_later())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_later(self) -> None:
        await asyncio.sleep(ANSWER_SECONDS)
        await asyncio.to_thread(self._end_answers)


def _exit() -> None:
    print("athanor: the server still works on something; it ends now.", file=sys.stderr, flush=True)
    os._exit(0)
