"""The lines of a chat: messages to one or two models, and commands such as /reset."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.conversations import Message
from tasks.errors import UserError

COMMANDS = {
    "/help": "show these commands",
    "/reset": "forget the conversation so far",
    "/retry": "answer the last message again",
    "/system TEXT": "begin a new conversation with this system message; without TEXT, without one",
    "/model NAME": "go on with another model (a stage, a folder or a hub name); without NAME, show the models",
    "/quit": "end the chat; an empty line and Ctrl-D do the same",
}
NAMES = tuple(usage.split()[0] for usage in COMMANDS)


class Partner(Protocol):
    """A model with its conversation: flows.chat.Chat."""

    model: Any
    messages: list[Message]

    def reply(self, message: str, on_text: Callable[[str], object]) -> str:
        """Answer `message`."""


@dataclass
class Session:
    """A chat with the models of `partners` (name -> model), which all get the same messages.

    open_model: returns the name and the model that /model asks for, or raises BadModel; available: the names to choose
    from. With `forget`, each message begins a new conversation.
    """

    partners: dict[str, Partner]
    open_model: Callable[[str], tuple[str, Partner]]
    available: Iterable[str] = ()
    forget: bool = False
    as_json: bool = False
    last_message: str = ""

    def talk(self, lines: Iterable[str]) -> None:
        """Answer each line until an empty one or /quit. A command is a line whose first word is one of NAMES."""
        for line in lines:
            name, _, text = line.strip().partition(" ")
            if not name or name == "/quit":
                return
            try:
                if name in NAMES:
                    self._run(name, text.strip())
                else:
                    self._answer(line.strip())
            except UserError as error:
                print(f"athanor: {error}", file=sys.stderr)

    def _run(self, name: str, text: str) -> None:
        if name == "/help":
            _tell(*(f"{usage:<14}{meaning}" for usage, meaning in COMMANDS.items()))
        elif name == "/reset":
            self._reset()
            _tell("The conversation is forgotten.")
        elif name == "/system":
            self._reset()
            for partner in self.partners.values():
                partner.messages += [{"role": "system", "content": text}] if text else []
            _tell("A new conversation begins" + (f" with the system message: {text}" if text else "."))
        elif name == "/model":
            self._change_model(text)
        elif not self.last_message:
            _tell("There is no message to answer again.")
        else:  # /retry
            for partner in self.partners.values():
                if partner.messages and partner.messages[-1]["role"] == "assistant":
                    del partner.messages[-2:]
            self._answer(self.last_message)

    def _reset(self) -> None:
        for partner in self.partners.values():
            partner.messages.clear()
        self.last_message = ""

    def _change_model(self, text: str) -> None:
        if not text:
            _tell(f"model: {', '.join(self.partners)}; available: {', '.join(self.available)}")
            return
        name, partner = self.open_model(text)
        first = next(iter(self.partners.values()))
        partner.messages += first.messages
        self.partners = {name: partner}
        _tell(f"{name} continues the conversation.")

    def _answer(self, message: str) -> None:
        """Print the answer of each model; one that fails keeps its conversation and prints an empty line."""
        self.last_message = message
        answers: dict[str, str | None] = {}
        for name, partner in self.partners.items():
            if self.forget:
                partner.messages[:] = [m for m in partner.messages if m["role"] == "system"]
            if len(self.partners) > 1 and not self.as_json:
                print(f"{name}: ", end="", flush=True)
            try:
                answers[name] = partner.reply(message, self._print_part)
            except UserError as error:
                print(f"athanor: {error}", file=sys.stderr)
                answers[name] = None
            if not self.as_json:
                print(flush=True)
        if self.as_json:
            print(json.dumps(_record(message, answers), ensure_ascii=False), flush=True)

    def _print_part(self, text: str) -> None:
        if not self.as_json:
            print(text, end="", flush=True)


def _record(message: str, answers: Mapping[str, str | None]) -> dict[str, object]:
    if len(answers) == 1:
        return {"message": message, "answer": next(iter(answers.values()))}
    return {"message": message, "answers": dict(answers)}


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)
