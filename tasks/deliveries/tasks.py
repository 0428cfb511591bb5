"""Deliveries for the flows: receive, list, restore and remove."""

import json
from pathlib import Path

from tasks.deliveries import ledger
from tasks.deliveries.ledger import PREFIX, BringBack, Delivery, Ledger, read, receive, remove, write

__all__ = [
    "PREFIX", "Delivery", "Ledger", "activate", "activate_numbers", "copy_dvc_files", "read", "receive", "remove",
    "write",
]  # fmt: skip


def activate(text: str, bring_back: BringBack) -> None:
    """Make the deliveries active that were so in an earlier list; `text` is its file, empty if there was none."""
    activate_numbers(_active(text), bring_back)


def copy_dvc_files(text: str, root: Path) -> list[str]:
    """Copy the .dvc files of the deliveries that were active in an earlier list below `root`; return their paths.

    Raises BadInput or BadParams if one does not exist any more.
    """
    return ledger.copy_dvc_files(read(), _active(text), root)


def _active(text: str) -> set[int]:
    return Ledger.model_validate(json.loads(text)).active() if text else set()


def activate_numbers(numbers: set[int], bring_back: BringBack) -> None:
    """Make exactly these deliveries active. Raises BadInput or BadParams if one does not exist any more."""
    present = read()
    if present.deliveries:
        ledger.activate(present, numbers, bring_back)
