"""What the endpoints of one server share."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from flows.serving.delivery import Delivery, Limits
from flows.serving.metrics import Metrics
from flows.serving.registry import Registry
from flows.serving.signatures import Signer


class Filter(Protocol):
    """Decides about a whole answer."""

    def label(self, text: str) -> str | None:
        """Why a text is blocked; None if it is not."""


@dataclass
class State:
    """The models and settings of one server."""

    registry: Registry
    delivery: Delivery
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    max_body_bytes: int = 4 << 20
    filter: Filter | None = None
    signer: Signer = field(default_factory=Signer)

    @property
    def has_filter(self) -> bool:
        """Whether answers are checked before they are sent."""
        return self.filter is not None

    async def blocked(self, text: str) -> str | None:
        """The label because of which an answer is blocked; None if it is not."""
        return await asyncio.to_thread(self.filter.label, text) if self.filter is not None else None

    def blocked_text(self, label: str) -> str:
        """What is sent in place of a blocked answer."""
        return f"[This answer was blocked by the filter: {label}.]"
