"""Notifications of failures, refused gates and files, new models and promotions, through a block of Prefect.

`python -m flows.notifications URL` makes the block custom-webhook/athanor, which posts {"subject", "text"} to URL, and
sends a first message. The variable ATHANOR_NOTIFICATIONS names another block, such as slack-webhook/team. They are sent
where a Prefect server of `make up`, or of PREFECT_API_URL, keeps the block; a notification that fails stops nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from flows.runtime import arguments, command
from tasks.addresses import redact
from tasks.errors import BadInput, GateFailed

VARIABLE, BLOCK = "ATHANOR_NOTIFICATIONS", "custom-webhook/athanor"
MAX_CHARACTERS = 2_000


def notify(subject: str, text: str) -> bool:
    """Send a notification; return whether it was sent. Without a lasting server or a block nothing happens."""
    if not os.environ.get("PREFECT_API_URL"):
        return False
    name = os.environ.get(VARIABLE, BLOCK)
    try:
        block = _load(name)
    except ValueError:  # there is no such block
        if VARIABLE in os.environ:
            print(f"warning: Prefect has no block {name}, which {VARIABLE} names.", file=sys.stderr)
        return False
    except Exception as error:  # the server is absent
        print(f"warning: no notification was sent ({redact(str(error))}).", file=sys.stderr)
        return False
    try:
        block.notify(body=redact(text)[:MAX_CHARACTERS], subject=f"Athanor: {subject}")
    except Exception as error:  # any error of the receiver
        print(f"warning: {name} did not accept a notification ({redact(str(error))[:300]}).", file=sys.stderr)
        return False
    return True


def notify_of_failure(error: BaseException) -> None:
    """Notify that a pipeline failed, or that a gate refused its model. An interruption by the user is neither."""
    if isinstance(error, GateFailed):
        notify("a gate refused the model", str(error))
    elif isinstance(error, Exception):
        notify("a pipeline failed", f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def of_failure() -> Iterator[None]:
    """Notify of an error that the block raises. A pipeline inside the block would notify twice."""
    try:
        yield
    except Exception as error:
        notify_of_failure(error)
        raise


def notify_of_refused_files(reasons: dict[str, str]) -> None:
    """Notify of delivered files that cannot be read. reasons: by file."""
    if reasons:
        lines = "\n".join(f"{name}: {reason}" for name, reason in reasons.items())
        notify("delivered files were refused", f"They cannot be read:\n{lines}")


def notify_of_dead_runs(number: int) -> None:
    """Notify of flow runs whose process was killed."""
    if number:
        notify("runs were killed", f"Flow runs whose process has ended: {number}. The next run continues their work.")


def notify_of_models(stages: list[str]) -> None:
    """Notify of the models that a pipeline has trained and registered."""
    if stages:
        notify("new models", f"The pipeline has trained and registered: {', '.join(stages)}.")


def notify_of_promotion(model: str, reason: str) -> None:
    """Notify that a model has become the champion."""
    notify("promotion", f"{model} is the new champion: {reason}")


def set_webhook(url: str) -> None:
    """Make or replace the block of the webhook, and send a first message. Raises BadInput if that fails."""
    if not os.environ.get("PREFECT_API_URL"):
        raise BadInput("No Prefect server keeps the block. Run `make up` first, or set PREFECT_API_URL.")
    webhook(url).save(BLOCK.split("/")[1], overwrite=True)
    if not notify("notifications are set up", "This is the first one."):
        raise BadInput(f"the webhook {redact(url)} did not accept a message; the block was saved")


def webhook(url: str) -> Any:
    """Return the block that posts the subject and the text of a notification to `url`."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    message = {"subject": "{{subject}}", "text": "{{body}}"}
    return CustomWebhookNotificationBlock(name="athanor", url=url, method="POST", json_data=message)


def _load(name: str) -> Any:
    from prefect.blocks.core import Block

    return Block.load(name)


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.notifications", __doc__)
    parser.add_argument("url", metavar="URL", help="the address that notifications are posted to")
    parsed = parser.parse_args()
    return command.guarded(lambda: set_webhook(parsed.url))


if __name__ == "__main__":
    sys.exit(main())
