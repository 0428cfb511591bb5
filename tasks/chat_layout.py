"""Render messages by a chat template, and locate in the text what the assistant writes: its answers with their ends.

Three methods are used. A template that marks its answers by `{% generation %}` states them itself. Otherwise the
contents are enclosed by characters that no message has: the text without these characters must be the rendered text,
and the text around them is that of the template. What remains is located by prefixes: the rendered earlier messages.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

from tasks.errors import BadModel

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
ChatMessages = Sequence[Any]
"""messages: mappings with `role`, `content`, and `weight` 0 for an answer that is not learned"""
Span = tuple[int, int]
FIRST_PRIVATE, LAST_PRIVATE = 0xF0000, 0x10FFFD  # code points of the private-use planes


class Refused(Exception):
    """A template cannot render these messages; the text is the reason."""


@dataclass(frozen=True, slots=True)
class HiddenText:
    """Texts in which control tokens are replaced by characters of `originals` (character -> control token)."""

    texts: list[str]
    originals: dict[str, str]

    def restore(self, text: str) -> str:
        """The text with the control tokens again."""
        return (
            token_pattern(self.originals).sub(lambda match: self.originals[match[0]], text) if self.originals else text
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered chat. hidden: what replaces control tokens that messages contain; spans: (start, end) in `text`.

    answers: the span of each answer that is learned; ends_with_answer: whether the last message is one of them.
    """

    text: str
    hidden: HiddenText
    answers: list[Span] = field(default_factory=list)
    ends_with_answer: bool = False


class Renderer:
    """The chat template of a tokenizer.

    left_out: the end of the generation header that counts as a part of the answer (see ChatTemplate.encode_prompts).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.left_out = tokenizer, ""
        self.source = str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
        self._after: dict[tuple[tuple[str, ...], bool], str | None] = {}

    @cached_property
    def control(self) -> list[str]:
        """The control tokens: in the messages of system and user, they are text."""
        probe = self._probe_text(("user", "assistant", "user"), True)
        return find_control_tokens(self.tokenizer, self.source + probe)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the control tokens."""
        return token_pattern(self.control)

    @cached_property
    def answer_pattern(self) -> re.Pattern[str]:
        """Matches the control tokens that are text in an answer.

        Tokens that are not special and that the template does not use around messages, such as `<think>` and
        `<tool_call>`, are tokens where an assistant writes them.
        """
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        around = self._probe_text(("user",), False) + (self.after_last(("user", "assistant"), False) or "")
        return token_pattern(token for token in self.control if token in special or token in around)

    def lay_out(self, messages: ChatMessages, header: bool = False) -> Layout:
        """Render messages. With `header`, the header of the assistant's next message follows, and nothing is learned.

        Raises Refused.
        """
        if not messages:
            raise Refused("there is no message")
        contents = [str(message["content"]) for message in messages]
        characters = private_characters(set("".join(contents)))
        patterns = [self.answer_pattern if m["role"] == "assistant" else self.pattern for m in messages]
        hidden = hide(contents, patterns, characters)
        rows = [{**m, "content": text} for m, text in zip(messages, hidden.texts, strict=True)]
        text = self.render(rows, header)
        spans = self._content_spans(rows, text, characters, header)
        for number, (row, span) in enumerate(zip(rows, spans or (), strict=False), 1):
            if row["content"].strip() and span == (None, None):
                raise Refused(f"the template leaves out message {number} ({row['role']})")
        learned = [i for i, row in enumerate(rows) if row["role"] == "assistant" and row.get("weight", 1) != 0]
        if header or not learned:
            return Layout(text, hidden)
        locator = _Locator(self, rows, text, spans or [(None, None)] * len(rows))
        return Layout(text, hidden, locator.answers(learned), learned[-1] == len(rows) - 1)

    def render(self, messages: ChatMessages, header: bool = False) -> str:
        """The text of messages. Raises Refused, or BadModel if the template is no valid Jinja template."""
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        plain = [self.plain(message) for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=header))
        except TemplateSyntaxError as error:
            raise BadModel(
                f"The chat template of the tokenizer is not valid Jinja: {error} (line {error.lineno}). Repair "
                "chat_template.jinja in its folder, or remove it; then the plain template of this project is used."
            ) from error
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Refused(str(error).strip().split("\n")[0] or type(error).__name__) from error

    def plain(self, message: Any) -> dict[str, Any]:
        """A message as the template reads it: its content is a text, or a list of parts in templates for images."""
        content = [{"type": "text", "text": message["content"]}] if self._reads_parts else message["content"]
        return {"role": message["role"], "content": content}

    @cached_property
    def _reads_parts(self) -> bool:
        mark = chr(LAST_PRIVATE)
        for content in (mark, [{"type": "text", "text": mark}]):
            with suppress(Exception):  # whatever it is: `render` states it
                chat = [{"role": "user", "content": content}]
                if mark in self.tokenizer.apply_chat_template(chat, tokenize=False):
                    return content != mark
        return False

    def after_last(self, roles: tuple[str, ...], header: bool) -> str | None:
        """What the template puts after the last content of messages with these roles; None if it refuses them."""
        if (roles, header) not in self._after:
            end = chr(LAST_PRIVATE)
            messages = [{"role": role, "content": "x"} for role in roles]
            messages[-1]["content"] += end
            try:
                _, found, after = self.render(messages, header).rpartition(end)
            except Refused:
                found, after = "", ""
            self._after[roles, header] = after if found else None
        return self._after[roles, header]

    def _probe_text(self, roles: tuple[str, ...], header: bool) -> str:
        try:
            return self.render([{"role": role, "content": "x"} for role in roles], header)
        except Refused:
            return ""

    def _content_spans(
        self, rows: ChatMessages, text: str, characters: Iterator[str], header: bool
    ) -> list[tuple[int | None, int | None]] | None:
        """Where each content starts and ends in the rendered text; None for a place that is not known.

        The marks are inside the white space of a content, so that a template can strip it. At first, empty contents get
        marks, too; if the template renders them in another way then, they get none.
        """
        marks = [(next(characters), next(characters)) for _ in rows]
        for with_empty in (True, False):
            marked = [
                {**row, "content": _enclose(row["content"], *pair) if with_empty or row["content"].strip() else ""}
                for row, pair in zip(rows, marks, strict=True)
            ]
            try:
                rendered = self.render(marked, header)
            except Refused:
                continue
            without_marks, places = _places(rendered, {mark for pair in marks for mark in pair})
            if without_marks == text:
                return [(places.get(start), places.get(end)) for start, end in marks]
        return None


class _Locator:
    """Locates the answers of one rendered chat. rows: its messages; spans: where their contents are."""

    def __init__(
        self, renderer: Renderer, rows: ChatMessages, text: str, spans: list[tuple[int | None, int | None]]
    ) -> None:
        self.renderer, self.rows, self.text, self.spans = renderer, rows, text, spans
        self.roles = tuple(str(row["role"]) for row in rows)

    def answers(self, indices: list[int]) -> list[Span]:
        """The spans of the answers with these indices. Raises Refused if one cannot be located."""
        stated = self._stated_spans() if GENERATION_TAG.search(self.renderer.source) else {}
        result = list[Span]()
        for index in indices:
            start, end = self._start(index), self._end(index)
            if index in stated:
                start, end = stated[index][0], max(stated[index][1], end or 0)
            if start is None or end is None or start > end or (result and start < result[-1][1]):
                raise Refused(
                    f"the template changes message {index + 1} (assistant) so that its text cannot be located in the "
                    "rendered chat"
                )
            result.append((start, end))
        return result

    def _stated_spans(self) -> dict[int, Span]:
        """The spans that `{% generation %}` states, by the index of the answer, if there is one for each answer."""
        from transformers.utils.chat_template_utils import render_jinja_template

        plain = [self.renderer.plain(row) for row in self.rows]
        _, (spans,) = render_jinja_template(
            conversations=[plain],
            chat_template=self.renderer.source,
            return_assistant_tokens_mask=True,
            **self.renderer.tokenizer.special_tokens_map,
        )
        indices = [index for index, role in enumerate(self.roles) if role == "assistant"]
        return dict(zip(indices, spans, strict=True)) if len(spans) == len(indices) else {}

    def _start(self, index: int) -> int | None:
        """Where the header of an answer ends."""
        content_start, content_end = self.spans[index]
        before = self.spans[index - 1][1] if index else None
        head = self.renderer.after_last(self.roles[:index], True) if index else None
        start: int | None = None
        if before is not None and head is not None and (content_end is None or before <= content_end):
            start = max(
                (place + self._common(head, self.text[place : content_end or None]) for place in self._ends(index - 1)),
                default=None,
            )
        elif index:
            start = self._prefix_length(index, len(head or ""))
        if start and self.renderer.left_out and self.text.endswith(self.renderer.left_out, before or 0, start):
            start -= len(self.renderer.left_out)
        starts = [place for place in (start, content_start) if place is not None]
        return min(starts) if starts else None

    def _prefix_length(self, index: int, header_length: int) -> int | None:
        """The length of the rendered messages before an answer, with its header."""
        try:
            before = self.renderer.render(self.rows[:index], True)
        except Refused:
            return None
        length = self._common(before, self.text)
        return length if length >= len(before) - header_length else None

    def _end(self, index: int) -> int | None:
        """Where the text ends that the template puts after an answer."""
        if index == len(self.rows) - 1:
            return len(self.text)
        tail = self.renderer.after_last(self.roles[: index + 1], False) or ""
        next_start = self.spans[index + 1][0]
        places = self._ends(index) if self.spans[index][1] is not None else self._prefix_ends(index, tail)
        gaps = [self.text[place : next_start if next_start and next_start >= place else None] for place in places]
        ends = [place + end_of_turn(tail, gap, self.renderer.pattern) for place, gap in zip(places, gaps, strict=True)]
        return max(ends, default=None)

    def _prefix_ends(self, index: int, tail: str) -> list[int]:
        """As `_ends`, from the rendered messages up to an answer, which end with `tail`."""
        try:
            text = self.renderer.render(self.rows[: index + 1]).removesuffix(tail)
        except Refused:
            return []
        return [len(text)] if self.text.startswith(text) else []

    def _ends(self, index: int) -> list[int]:
        """The places where a content may end: the template may leave white space at its end, or remove it."""
        content, (_, end) = self.rows[index]["content"], self.spans[index]
        assert end is not None
        space = content[len(content.rstrip()) :]
        return [end, end + len(space)] if space and self.text.startswith(space, end) else [end]

    def _common(self, one: str, other: str) -> int:
        return common_length(one, other, self.renderer.pattern)


def end_of_turn(tail: str, gap: str, pattern: re.Pattern[str]) -> int:
    """The number of characters of `gap` that end an answer.

    tail: what follows the last answer of a chat; gap: what follows an earlier answer, up to the next content. Where
    both begin with different control tokens (gpt-oss), that of the gap ends the answer.
    """
    length = common_length(tail, gap, pattern)
    first = pattern.search(gap)
    if first and not pattern.search(gap[:length]) and not gap[: first.start()].strip():
        return first.end()
    return length


def common_length(one: str, other: str, pattern: re.Pattern[str]) -> int:
    """The length of the longest common prefix that ends in no control token."""
    pairs = enumerate(zip_longest(one, other))
    length = next((index for index, (a, b) in pairs if a != b), len(one))
    for text in (one, other):
        for match in pattern.finditer(text, 0):
            if match.start() >= length:
                break
            if match.end() > length:
                length = match.start()
    return length


def _enclose(content: str, start: str, end: str) -> str:
    core = content.strip()
    first = content.index(core) if core else 0
    return content[:first] + start + core + end + content[first + len(core) :]


def _places(text: str, marks: set[str]) -> tuple[str, dict[str, int]]:
    """The text without marks, and the place of each mark in it."""
    places: dict[str, int] = {}
    parts, length, last = [], 0, 0
    for match in re.finditer("[\U000f0000-\U0010fffd]", text):
        if match[0] in marks:
            parts.append(text[last : match.start()])
            length += match.start() - last
            last = match.end()
            places[match[0]] = length
    return "".join(parts) + text[last:], places


def private_characters(used: Collection[str]) -> Iterator[str]:
    """Yield characters of the private-use planes that are not in `used`."""
    return (chr(code) for code in range(FIRST_PRIVATE, LAST_PRIVATE) if chr(code) not in used)


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of the tokens, the longest first; nothing if there are none."""
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")


def find_control_tokens(tokenizer: Any, template_text: str) -> list[str]:
    """The special tokens, and the other added tokens that the text of the chat template contains.

    Tokens of white space are ordinary text; so are added tokens such as Gemma's `<table>`, unless a template uses them.
    """
    added = tokenizer.added_tokens_decoder.values()
    contents = [token.content for token in added if token.special or token.content in template_text]
    return [content for content in dict.fromkeys(contents) if content.strip()]


def hide(texts: list[str], patterns: list[re.Pattern[str]], characters: Iterator[str]) -> HiddenText:
    """Replace the control tokens in each text, which its pattern matches, by characters that no text contains."""
    replacements: dict[str, str] = {}

    def replacement(match: re.Match[str]) -> str:
        if match[0] not in replacements:
            replacements[match[0]] = next(characters)
        return replacements[match[0]]

    hidden = []
    for text, of_text in zip(texts, patterns, strict=True):
        # A replaced token may leave another one, where two of them overlapped.
        while of_text.search(text):
            text = of_text.sub(replacement, text)
        hidden.append(text)
    return HiddenText(hidden, {character: token for token, character in replacements.items()})
