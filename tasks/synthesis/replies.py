"""Replies on disk by the hash of their request, so that no request is paid for twice, whatever is killed.

A reply is written and flushed to the disk before anybody uses it. Many threads share one flush. A line that a kill has
cut off is counted, and its request is sent again.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tasks.files import locked, sync_folder

FILE = "replies.jsonl"
Reply = dict[str, Any]  # text, input_tokens, output_tokens, finish_reason


def request_hash(url: str, body: Mapping[str, Any]) -> str:
    """The key of a request: its URL and body, without credentials."""
    text = json.dumps([url, body], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


class ReplyStore:
    """The replies of one synthesis. Raises BadInput if another process writes to the same folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._replies: dict[str, Reply] = {}
        self.num_damaged = 0
        path = folder / FILE
        is_new = not path.exists()
        self._open = ExitStack()
        refusal = f"another process writes to {folder}. Wait for its end, or choose another output."
        self._open.enter_context(locked(path, refusal))
        self._file = os.open(path, os.O_RDWR | os.O_APPEND)
        self._open.callback(os.close, self._file)
        if is_new:
            sync_folder(folder)
        self._read(path)
        self._queue: SimpleQueue[tuple[str, Reply, Future[None]] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="replies", daemon=True)
        self._writer.start()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to a request; None if it was not asked yet."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Store a reply, and return when it is on disk. Raises OSError if it cannot be written."""
        future: Future[None] = Future()
        self._queue.put((key, reply, future))
        future.result()

    def close(self) -> None:
        """End the thread and close the file."""
        self._queue.put(None)
        self._writer.join()
        self._open.close()

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        for line in content.splitlines():
            try:
                record = json.loads(line)
                self._replies[record["key"]] = record["reply"]
            except (ValueError, KeyError, TypeError):
                self.num_damaged += 1
        if content and not content.endswith(b"\n"):
            os.write(self._file, b"\n")

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            batch = [item]
            while not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            self._write(batch)

    def _write(self, batch: list[tuple[str, Reply, "Future[None]"]]) -> None:
        lines = b"".join(
            json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            for key, reply, _ in batch
        )
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, lines) != len(lines):
                raise OSError("only a part of the replies was written")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            for _, _, future in batch:
                future.set_exception(error)
            return
        for key, reply, future in batch:
            self._replies[key] = reply
            future.set_result(None)
