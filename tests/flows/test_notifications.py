"""Notifications reach a webhook; a receiver that is absent or refuses them stops nothing."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flows import notifications
from tasks.errors import BadInput, GateFailed

Messages = list[dict[str, str]]


@pytest.fixture(name="messages")
def _messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    """Return what a local server receives through the block."""
    messages: Messages = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(notifications, "_load", lambda name: notifications.webhook(url))
    yield messages
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_event_is_posted(messages: Messages) -> None:
    notifications.notify_of_failure(RuntimeError("the disk is full: redis://anna:secret@host"))
    notifications.notify_of_failure(GateFailed("sft is below its gate"))
    notifications.notify_of_failure(KeyboardInterrupt())
    notifications.notify_of_models(["sft", "ppo"])
    notifications.notify_of_models([])
    notifications.notify_of_promotion("version 2 (ppo)", "it is better")
    notifications.notify_of_refused_files({"a.gz": "it is damaged"})
    notifications.notify_of_dead_runs(0)
    notifications.notify_of_dead_runs(2)
    with pytest.raises(BadInput), notifications.of_failure():
        raise BadInput("no source")
    assert [message["subject"].removeprefix("Athanor: ") for message in messages] == [
        "a pipeline failed", "a gate refused the model", "new models", "promotion", "delivered files were refused",
        "runs were killed", "a pipeline failed",
    ]  # fmt: skip
    assert "secret" not in json.dumps(messages)
    assert messages[3]["text"] == "version 2 (ppo) is the new champion: it is better"


def test_a_receiver_that_is_absent_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(notifications, "_load", lambda name: notifications.webhook("http://127.0.0.1:9/hook"))
    assert not notifications.notify("a subject", "a text")
    assert "did not accept a notification" in capsys.readouterr().err
    monkeypatch.delenv("PREFECT_API_URL")
    assert not notifications.notify("a subject", "a text")
