"""Greedy requests by the official client, and the texts of their answers."""

from typing import Any

import openai

MESSAGES: Any = [{"role": "user", "content": "say one"}]
GREEDY: dict[str, Any] = {"model": "sft", "temperature": 0, "max_tokens": 12}


def chat(client: openai.OpenAI, **settings: Any) -> Any:
    return client.chat.completions.create(**{"messages": MESSAGES, **GREEDY, **settings})


def complete(client: openai.OpenAI, **settings: Any) -> Any:
    return client.completions.create(**{"prompt": "say one", **GREEDY, **settings})


def text_of(answer: Any, index: int = 0) -> str:
    return str(answer.choices[index].message.content)


def joined(stream: Any, index: int = 0) -> str:
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices if choice.index == index)
