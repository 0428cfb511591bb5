"""Signatures by which a server recognizes its own answers in votes, also after a restart, and those of another process.

Without them, everybody who may use the page could send an own text as the better answer, and a model would learn it.
"""

import hmac
import json
import secrets
from collections.abc import Mapping, Sequence

from tasks.errors import BadParams

MIN_KEY_LENGTH = 32


class Signer:
    """Signs answers by HMAC-SHA256. key: a random one if it is None. Raises BadParams for a short one."""

    def __init__(self, key: str | None = None) -> None:
        key = secrets.token_urlsafe(MIN_KEY_LENGTH) if key is None else key
        if len(key) < MIN_KEY_LENGTH:
            raise BadParams(
                f"the key that signs answers has {len(key)} characters; at least {MIN_KEY_LENGTH} are needed. Delete "
                "its file, .run/answers.key, and start the server again, which makes a new key."
            )
        self._key = key.encode()

    def sign(
        self, prompt: Sequence[Mapping[str, str]], model: str, version: str, text: str, finish_reason: str | None
    ) -> str:
        """The signature of a complete answer of a model to the messages of a prompt."""
        messages = [[message["role"], message["content"]] for message in prompt]
        signed = json.dumps([messages, model, version, text, finish_reason])  # ASCII: no text is ambiguous
        return hmac.digest(self._key, signed.encode(), "sha256").hex()

    def is_own(
        self, signature: str, prompt: Sequence[Mapping[str, str]], model: str, version: str, text: str,
        finish_reason: str | None,
    ) -> bool:  # fmt: skip
        """Whether a signature is that of this answer."""
        return hmac.compare_digest(signature.encode(), self.sign(prompt, model, version, text, finish_reason).encode())
