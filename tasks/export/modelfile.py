"""A Modelfile for Ollama: the GGUF file, the chat template in Ollama's language, and the texts that end an answer.

Ollama does not run Jinja templates but Go's. A template that only puts fixed texts around each message, by its role, is
translated; whether it is one is verified on whole chats.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant")
_MARK = "\U0010fffd"  # a private character, which no template contains


class Layout(NamedTuple):
    """A chat is `start`, then for each message the two texts of its role around its content, then `header`."""

    start: str
    around: dict[str, tuple[str, str]]
    header: str

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt for an answer to `messages`."""
        parts = [self.around[message["role"]] for message in messages]
        texts = [before + one["content"] + after for (before, after), one in zip(parts, messages, strict=True)]
        return self.start + "".join(texts) + self.header


_CHATS = (
    ("user",), ("system", "user"), ("user", "assistant", "user"), ("system", "user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
)  # fmt: skip


def layout(render: Callable[[list[dict[str, str]]], str], tokens: Sequence[str]) -> Layout | None:
    """The layout of a template; None if it does more than put fixed texts around each message.

    render: the prompt that the template makes of messages, with the header of the answer at its end. tokens: the
    control tokens, which are not cut in two.
    """
    try:
        layout = _guess(render, tokens)
        for roles in _CHATS if layout else ():
            chat = [{"role": role, "content": f"text {index} of {role}"} for index, role in enumerate(roles)]
            if layout is None or render(chat) != layout.render(chat):
                return None
    except Exception:  # a template of Jinja may raise anything, for example because it refuses a role
        return None
    return layout


def _guess(render: Callable[[list[dict[str, str]]], str], tokens: Sequence[str]) -> Layout | None:
    """Read the layout from the chats user, user-assistant-user and system-user."""
    user, assistant, system = ({"role": role, "content": _MARK} for role in ("user", "assistant", "system"))
    short = render([user]).split(_MARK)
    long = render([user, assistant, user]).split(_MARK)
    with_system = render([system, user]).split(_MARK)
    if (len(short), len(long), len(with_system)) != (2, 4, 3):
        return None
    before_user, tail = short
    start, user_header = _split_start(before_user, long[2], tokens)
    after_assistant = long[2].removesuffix(user_header)
    # After the user's text stand its end and the header of the answer. Most templates end all messages in one way.
    after_user = after_assistant if tail.startswith(after_assistant) else _common_prefix(long[1], tail)
    around = {
        "system": (with_system[0].removeprefix(start), with_system[1].removesuffix(user_header)),
        "user": (user_header, after_user),
        "assistant": (long[1].removeprefix(after_user), after_assistant),
    }
    return Layout(start, around, tail.removeprefix(after_user))


def _split_start(before_user: str, between: str, tokens: Sequence[str]) -> tuple[str, str]:
    """Split the text before the first message into the start of the chat and the header of the user's message.

    The header is the longest end of it that also stands between an answer and the next question.
    """
    cuts = {0, len(before_user)}
    for token in tokens:
        cuts |= {place for match in re.finditer(re.escape(token), before_user) for place in match.span()}
    length = min(place for place in cuts if between.endswith(before_user[place:]))
    return before_user[:length], before_user[length:]


def _common_prefix(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def write(gguf_name: str, chat: Layout | None, end_tokens: Sequence[str], context_length: int) -> str:
    """The text of the Modelfile. Without a layout it has no TEMPLATE and says so in a comment."""
    lines = [f"FROM ./{gguf_name}"]
    if chat is None:
        lines.append(
            "# The chat template in the GGUF file could not be translated into Ollama's language: write TEMPLATE here."
        )
    else:
        lines.append(f'TEMPLATE """{_go_template(chat)}"""')
    lines += [f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}" for token in end_tokens]
    lines.append(f"PARAMETER num_ctx {context_length}")
    return "\n".join(lines) + "\n"


def _go_template(chat: Layout) -> str:
    """The layout in the template language of Go, as Ollama documents it (.Messages with .Role and .Content)."""
    branches = [
        f'{{{{ {word} eq .Role "{role}" }}}}{_text(before)}{{{{ .Content }}}}{_text(after)}'
        for word, (role, (before, after)) in zip(("if", "else if", "else if"), chat.around.items(), strict=True)
    ]
    return (
        f"{_text(chat.start)}{{{{ range .Messages }}}}{''.join(branches)}{{{{ end }}}}{{{{ end }}}}{_text(chat.header)}"
    )


def _text(text: str) -> Any:
    """A fixed text in a template of Go: as it is, unless the template or the Modelfile would read it otherwise."""
    if "{{" in text or '"""' in text:
        return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}"
    return text
