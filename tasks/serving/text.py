"""The text of an answer while it is generated: only complete characters, and no beginning of a stop text."""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tasks.chat_templates import ChatTemplate

REPLACEMENT = "\ufffd"  # what bytes decode to that are not (yet) a complete character
MAX_INCOMPLETE = 3  # bytes of a character in UTF-8 without the last one
WINDOW, KEPT = 32, 8  # tokens that are decoded again with each new one; how many remain when the window moves


class AnswerText:
    """Turns tokens into text, one after another, in constant time per token.

    decode: ids -> text. whole: the text of a complete answer, where it differs from `decode` (a chat template adds text
    around an answer). is_in_preface: whether the text has not begun yet (thoughts). held: a text after an answer that
    is not part of it. stops: texts that end the answer and are not part of it.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str] = (),
        *,
        whole: Callable[[Sequence[int]], str] | None = None,
        is_in_preface: Callable[[Sequence[int]], bool] | None = None,
        held: str = "",
    ) -> None:
        self._decode, self._stops, self._whole = decode, [stop for stop in stops if stop], whole
        self._is_in_preface, self._held = is_in_preface, held
        self.ids: list[int] = []
        self.sent = ""  # what was returned so far
        self.is_stopped = False
        self._start = 0  # of the window in `ids`
        self._before = ""  # the text before the window
        self._has_begun = is_in_preface is None and whole is None

    def add(self, token: int) -> str:
        """Add a token and return the text that is certain now and was not before."""
        self.ids.append(token)
        text = self._text()
        if text is None:
            return ""
        end = self._stop_position(text)
        if end is not None:
            self.is_stopped = True
            return self._send(text[:end])
        complete = text.rstrip(REPLACEMENT)
        complete = text[: max(len(complete), len(text) - MAX_INCOMPLETE)]
        return self._send(complete[: len(complete) - self._num_held(complete)])

    def finish(self, end_ids: frozenset[int] = frozenset()) -> str:
        """Return the remaining text; a last token of `end_ids` has none."""
        if self.is_stopped:
            return ""
        ids = self.ids[:-1] if self.ids and self.ids[-1] in end_ids else self.ids
        text = self._whole(self.ids) if self._whole else self._decode(ids)
        if not text.startswith(self.sent):  # a tokenizer whose text depends on what follows: what was sent stays
            text = self.sent + (self._text() or "")[len(self.sent) :]
        end = self._stop_position(text)
        self.is_stopped = end is not None
        return self._send(text[:end])

    def _text(self) -> str | None:
        """The text so far, from the window; None if the content of the answer has not begun."""
        if not self._has_begun:
            if self._is_in_preface is not None and self._is_in_preface(self.ids):
                return None
            text = self._whole(self.ids) if self._whole else self._decode(self.ids)
            if text and not text.endswith(REPLACEMENT):
                # From here on, the window decodes plain tokens behind this text.
                self._has_begun, self._before, self._start = True, text, len(self.ids)
                self._move_window(text)
            return text
        window = self._decode(self.ids[self._start :])
        text = self._before + window
        if len(self.ids) - self._start > WINDOW and not window.endswith(REPLACEMENT):
            self._move_window(text)
        return text

    def _move_window(self, text: str) -> None:
        """Begin the window KEPT tokens before the end, if the text of these tokens is the end of `text`."""
        start = max(0, len(self.ids) - KEPT)
        kept = self._decode(self.ids[start:])
        if kept and text.endswith(kept) and not kept.startswith(REPLACEMENT):
            self._start, self._before = start, text[: len(text) - len(kept)]

    def _send(self, text: str) -> str:
        new = text[len(self.sent) :]
        self.sent = text if len(text) > len(self.sent) else self.sent
        return new

    def _stop_position(self, text: str) -> int | None:
        """Where the first stop text begins that ends in the new part of `text`."""
        if not self._stops:
            return None
        first = max(0, len(self.sent) - max(map(len, self._stops)))
        places = [place for stop in self._stops if (place := text.find(stop, first)) >= 0]
        return min(places) if places else None

    def _num_held(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop text or the text after an answer."""
        longest = 0
        for stop in (*self._stops, *([self._held] if self._held else [])):
            for length in range(min(len(stop), len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class Decoder:
    """Tokens of one tokenizer as text and as bytes."""

    def __init__(self, tokenizer: Any) -> None:
        # A copy: the tokenizer that encodes prompts changes its settings, which fails while another thread decodes.
        self.tokenizer = tokenizer = copy.deepcopy(tokenizer)
        self._template = ChatTemplate.of(tokenizer)
        self._around = self._template.surroundings
        self._template.is_in_preface([])
        self._special = set(tokenizer.all_special_tokens)
        self.token_bytes = lru_cache(1 << 16)(self._token_bytes)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def answer_text(self, stops: Sequence[str], is_chat: bool) -> AnswerText:
        """An AnswerText for a chat, by the template of the tokenizer, or for plain text."""
        if not is_chat:
            return AnswerText(self.decode, stops)
        template, around = self._template, self._around
        is_plain = not around.before and not around.after
        return AnswerText(
            self.decode,
            stops,
            whole=lambda ids: template.texts([ids])[0],
            is_in_preface=None if is_plain else template.is_in_preface,
            held=around.after,
        )

    def token_text(self, token: int) -> str:
        """A token alone as text; special tokens by their name."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def _token_bytes(self, token: int) -> bytes:
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return b""
        if name in self._special:
            return str(name).encode()
        text = str(self.tokenizer.decode([token]))
        if REPLACEMENT not in text:
            if text and text[0] != " " and name[0] == "▁":  # SentencePiece removes the space at the start of a text
                text = " " + text
            return text.encode()
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):  # byte fallback
            return bytes([int(name[3:5], 16)])
        alphabet = _byte_alphabet()
        if all(character in alphabet for character in name):
            return bytes(alphabet[character] for character in name)
        return text.encode()


@lru_cache(1)
def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE (GPT-2) writes for bytes: themselves if printable, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + number): byte for number, byte in enumerate(others)}
