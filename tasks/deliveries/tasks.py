"""Deliveries for the flows: receive, list, restore and remove."""

import json

from tasks.deliveries import ledger
from tasks.deliveries.ledger import BringBack, Delivery, Ledger, read, receive, remove, write

__all__ = ["Delivery", "Ledger", "activate", "activate_numbers", "read", "receive", "remove", "write"]


def activate(text: str, bring_back: BringBack) -> None:
    """Make the deliveries active that were so in an earlier list; `text` is its file, empty if there was none."""
    earlier = Ledger.model_validate(json.loads(text)) if text else Ledger()
    activate_numbers(earlier.active(), bring_back)


def activate_numbers(numbers: set[int], bring_back: BringBack) -> None:
    """Make exactly these deliveries active. Raises BadInput or BadParams if one does not exist any more."""
    present = read()
    if present.deliveries:
        ledger.activate(present, numbers, bring_back)
