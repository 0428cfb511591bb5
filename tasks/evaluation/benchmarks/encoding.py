"""Examples as token ids: plain text, or rendered with the chat template."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from tasks.errors import BadInput
from tasks.evaluation.benchmarks.examples import Example
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.continuations import Pair


def full_context(example: Example, context: str, params: BenchmarkSet) -> str:
    """The solved examples and the question as one text."""
    if params.few_shot is None:
        return context
    return params.few_shot.separator.join([*(prompt + answer for prompt, answer in example.shots), context])


def pairs(tokenizer: Any, examples: Sequence[Example], params: BenchmarkSet) -> list[Pair]:
    """One pair for each continuation of each example, one after another."""
    if params.chat:
        return [pair for example in examples for pair in _chat_pairs(tokenizer, example)]
    contexts = [full_context(one, context, params) for one in examples for context in one.contexts]
    continuations = [continuation for one in examples for continuation in one.continuations]
    return text_pairs(tokenizer, contexts, continuations, params.prefix)


def text_pairs(
    tokenizer: Any, contexts: Sequence[str], continuations: Sequence[str], prefix: str, split_special: bool = True
) -> list[Pair]:
    """The ids of plain texts, as lm-evaluation-harness divides them.

    Spaces at the end of a context belong to the continuation, because tokenizers join a space with the word after it.
    The ids are those of the whole text; the continuation begins after as many tokens as the context alone has. If the
    context is empty, the token that begins a document precedes the continuation.
    """
    stripped = [context.rstrip() for context in contexts]
    tails = [
        context[len(short) :] + continuation
        for context, short, continuation in zip(contexts, stripped, continuations, strict=True)
    ]
    wholes = _ids(tokenizer, [a + b for a, b in zip(stripped, tails, strict=True)], prefix, split_special)
    unique = list(dict.fromkeys(stripped))
    lengths = dict(zip(unique, map(len, _ids(tokenizer, unique, prefix, split_special)), strict=True))
    lengths[""] = _num_prefix(tokenizer, prefix)
    result = []
    for context, ids in zip(stripped, wholes, strict=True):
        split = min(lengths[context], len(ids) - 1) if ids else 0
        result.append(Pair(ids[:split], ids[split:]) if split else Pair([prefix_id(tokenizer)], ids))
    return result


def text_ids(tokenizer: Any, texts: Sequence[str], prefix: str) -> list[list[int]]:
    """The ids of prompts; never empty."""
    return [ids or [prefix_id(tokenizer)] for ids in _ids(tokenizer, texts, prefix, True)]


def chat_ids(tokenizer: Any, examples: Sequence[Example]) -> list[list[int]]:
    """The ids of the chats of examples, up to the header of the answer. Raises BadInput."""
    from tasks.chat_templates import ChatTemplate, EncodedChat

    encoded = ChatTemplate.of(tokenizer).encode_prompts([messages(example) for example in examples])
    for example, chat in zip(examples, encoded, strict=True):
        if not isinstance(chat, EncodedChat):
            raise BadInput(f"the chat template refuses the item {example.id} of a benchmark: {chat}")
    return [chat.ids.tolist() for chat in encoded if isinstance(chat, EncodedChat)]


def messages(example: Example) -> list[dict[str, str]]:
    """The chat of an example; solved examples are earlier turns."""
    shots = [
        {"role": role, "content": text.strip()}
        for shot in example.shots
        for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    own = list(example.messages) or [{"role": "user", "content": example.contexts[0]}]
    return [*shots, *own]


def prefix_id(tokenizer: Any) -> int:
    """The token that begins a document. Raises BadInput for a tokenizer without any such token."""
    for index in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if index is not None:
            return int(index)
    raise BadInput("the tokenizer has neither bos_token nor eos_token, so that no text can begin")


def _chat_pairs(tokenizer: Any, example: Example) -> list[Pair]:
    from tasks.chat_templates import ChatTemplate, EncodedPair

    template = ChatTemplate.of(tokenizer)
    pair = template.encode_pair(messages(example), [text.strip() for text in example.continuations])
    if not isinstance(pair, EncodedPair):
        raise BadInput(f"the chat template refuses the item {example.id} of a benchmark: {pair}")
    ends = template.end_ids
    return [
        Pair(pair.prompt.tolist(), list(takewhile(lambda index: index not in ends, ids.tolist())))
        for ids in pair.answers
    ]


def _ids(tokenizer: Any, texts: Sequence[str], prefix: str, split_special: bool) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        list(texts), add_special_tokens=prefix == "tokenizer", split_special_tokens=split_special, verbose=False
    ).input_ids
    before = [prefix_id(tokenizer)] if prefix == "bos" else []
    return [before + list(ids) for ids in encoded]


def _num_prefix(tokenizer: Any, prefix: str) -> int:
    return len(tokenizer("").input_ids) if prefix == "tokenizer" else int(prefix == "bos")
