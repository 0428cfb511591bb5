"""Chats as token ids by the template of any tokenizer: for training, preferences, prompts, evaluation and flows.chat.

The ids are those of `apply_chat_template`. A special token that a user wrote into a message stays text, however
the template places it. Answers that a model wrote become text again without what the template puts around them.
"""

import json
import string
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tasks import chat_layout
from tasks.chat_layout import ChatMessages, Layout, Refused, Renderer, Span, token_pattern
from tasks.errors import BadModel

IdArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
THOUGHT_END = "</think>"
PROBES = (*string.ascii_letters, *string.digits, "好")  # beginnings of answers; some are joined with the header


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """ids and loss mask of a chat, both [num_tokens]; answer: the index of the first token of the last answer."""

    ids: IdArray
    mask: Mask
    answer: int
    num_joined: int


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The ids of a prompt and of each answer to it. prompt + answer are the ids of the chat."""

    prompt: IdArray
    answers: list[IdArray]
    num_joined: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the template puts around the last answer of a chat: texts before and after its content, and its end token.

    end: None if there is no control token after an answer. before, after: without the end token and what follows it.
    """

    before: str
    after: str
    end: str | None
    follows_answer: bool  # whether the end token follows the last answer, and not only an earlier one


@dataclass(frozen=True, slots=True)
class RenamedTokens:
    """A tokenizer whose control tokens have other names. names: control token -> name, which begins with `frame`."""

    backend: Tokenizer
    names: dict[str, str]
    frame: str


class ChatTemplate:
    """Encodes chats by the template of `tokenizer`, and decodes answers."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise BadModel(
                f"the tokenizer of {tokenizer.name_or_path} has no fast version (tokenizer.json), which chats need; "
                "choose another one."
            )
        self.tokenizer = tokenizer
        self.renderer = Renderer(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._renamed: RenamedTokens | None = None

    @staticmethod
    def of(tokenizer: Any) -> "ChatTemplate":
        """The template of a tokenizer, which is kept for the next call."""
        return _template(tokenizer, str(tokenizer.chat_template))

    def encode_chats(self, chats: Sequence[ChatMessages]) -> list[EncodedChat | Refused]:
        """The ids of chats, with the mask of the answers that are learned; Refused where that is impossible."""
        return self._encode_or_refuse(chats, False)

    def encode_prompts(self, chats: Sequence[ChatMessages]) -> list[EncodedChat | Refused]:
        """The ids of chats followed by the header of an answer: what a model reads before it answers.

        The end of the header that the template does not put before a finished answer (`<think>` of DeepSeek), or that
        the tokenizer joins with the beginning of answers (a space), is left out: a model was not trained on it.
        """
        return self._encode_or_refuse(chats, True)

    def encode_pair(self, prompt: ChatMessages, answers: Sequence[str]) -> EncodedPair | Refused:
        """The ids of a prompt and of answers to it, each as the last answer of a chat."""
        chats = [[*prompt, {"role": "assistant", "content": answer}] for answer in answers]
        encoded = list[EncodedChat]()
        for chat in self.encode_chats(chats):
            if isinstance(chat, Refused):
                return chat
            encoded.append(chat)
        # The tokenizer may join the end of the header with the beginning of one answer.
        length = min(chat.answer for chat in encoded)
        if any(not np.array_equal(chat.ids[:length], encoded[0].ids[:length]) for chat in encoded):
            return Refused("the template renders the prompt in another way for each of the two answers")
        answer_ids = [chat.ids[length:] for chat in encoded]
        return EncodedPair(encoded[0].ids[:length], answer_ids, encoded[0].num_joined)

    def refusal(self, prompt: ChatMessages) -> str | None:
        """Why the template refuses a prompt; None if it does not."""
        layout = self._lay_out(prompt, True)
        return str(layout) if isinstance(layout, Refused) else None

    @cached_property
    def surroundings(self) -> Surroundings:
        """What the template puts around the last answer of a chat; nothing if the tokenizer has no template."""
        if not self.renderer.source:
            return Surroundings("", "", None, False)
        chat = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
        self.renderer.left_out = self._left_out
        pattern, first, last = self.renderer.pattern, chr(0x10FFF0), chr(0x10FFF1)
        try:
            (start, _), *_ = self.renderer.lay_out(chat[:2]).answers
            marked = [chat[0], {**chat[1], "content": first + "x" + last}]
            text = self.renderer.render(marked)
            before, tail = text[start : text.index(first)], text[text.index(last) + 1 :]
            marked = [chat[0], {**chat[1], "content": "x" + first}, {**chat[2], "content": last + "x"}, chat[3]]
            text = self.renderer.render(marked)
            gap = text[text.index(first) + 1 : text.index(last)]
        except (Refused, ValueError) as error:
            raise BadModel(
                f"The chat template of the tokenizer cannot render a question with its answer: {error}. Repair "
                "chat_template.jinja in its folder, or remove it; then the plain template of this project is used."
            ) from error
        common = list(pattern.finditer(tail[: chat_layout.common_length(tail, gap, pattern)]))
        of_gap = pattern.search(gap[: chat_layout.end_of_turn(tail, gap, pattern)])
        of_tail = common[-1] if common else pattern.search(tail)
        end = of_tail or of_gap
        after = tail[: of_tail.start()] if of_tail else tail
        return Surroundings(before, after, end and end[0], of_tail is not None)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: that of the tokenizer, and the one that the template puts after an answer."""
        ids = [self.tokenizer.eos_token_id]
        if self.surroundings.end is not None:
            ids.append(self.tokenizer.convert_tokens_to_ids(self.surroundings.end))
        return tuple(dict.fromkeys(int(index) for index in ids if index is not None))

    @cached_property
    def ids_after_end(self) -> list[int]:
        """What follows the end token of the last answer of a chat, such as a line end. A model does not generate it."""
        if not self.surroundings.follows_answer:
            return []
        (chat,) = self.encode_chats([[{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]])
        assert isinstance(chat, EncodedChat)
        answer = chat.ids[chat.answer :].tolist()
        end = self.tokenizer.convert_tokens_to_ids(self.surroundings.end)
        return answer[len(answer) - answer[::-1].index(end) :] if end in answer else []

    def complete(self, sequence: Ids) -> Ids:
        """A prompt with an answer that a model wrote, and what the template puts after the end token of the answer."""
        if self.ids_after_end and sequence[-1] == self.end_ids[-1]:
            return [*map(int, sequence), *self.ids_after_end]
        return sequence

    def texts(self, answers: Iterable[Ids]) -> list[str]:
        """The contents of answers that a model wrote, without thoughts, special tokens and what the template adds."""
        return [self._text(list(map(int, answer))) for answer in answers]

    def is_in_preface(self, answer: Sequence[int]) -> bool:
        """Whether an answer that is being written has not come to its content: its thoughts have no end yet."""
        before = self.surroundings.before
        if self._preface_end is None:
            return bool(before.strip()) and before.startswith(self.tokenizer.decode(list(answer)))
        first = self._backend.encode(before.lstrip(), add_special_tokens=False).ids[:1]
        return self._preface_end not in answer and (first == [self._preface_end] or [*answer][:1] == first)

    @cached_property
    def _preface_end(self) -> int | None:
        """The last added token before the content of an answer, such as `</think>`."""
        added = token_pattern(token.content for token in self.tokenizer.added_tokens_decoder.values())
        tokens = [match[0] for match in added.finditer(self.surroundings.before) if match[0].strip()]
        return int(self.tokenizer.convert_tokens_to_ids(tokens[-1])) if tokens else None

    def _text(self, ids: list[int]) -> str:
        around, end = self.surroundings, self._preface_end
        before = around.before
        if end is not None:
            before = before.rpartition(self.tokenizer.convert_ids_to_tokens(end))[2]
            ids = ids[len(ids) - ids[::-1].index(end) :] if end in ids else ids
        if ids and ids[-1] in self.end_ids:
            ids = ids[:-1]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        if THOUGHT_END in before and THOUGHT_END in text:  # it is no token of this tokenizer
            before, text = before.rpartition(THOUGHT_END)[2], text.rpartition(THOUGHT_END)[2]
        text = text.lstrip() if before.isspace() else text.removeprefix(before)
        return text.removesuffix(around.after)

    def _encode_or_refuse(self, chats: Sequence[ChatMessages], header: bool) -> list[EncodedChat | Refused]:
        self.renderer.left_out = self._left_out
        layouts = [self._lay_out(messages, header) for messages in chats]
        encoded = iter(self._encode([layout for layout in layouts if isinstance(layout, _Chat)]))
        return [layout if isinstance(layout, Refused) else next(encoded) for layout in layouts]

    @cached_property
    def _left_out(self) -> str:
        """The end of the generation header that chats with an answer do not have, or only as a part of other tokens."""
        question = {"role": "user", "content": "x"}
        try:
            text = self.renderer.render([question], True)
            chats = [self.renderer.render([question, {"role": "assistant", "content": word}]) for word in PROBES]
        except Refused:
            return ""
        header, *encoded = self._backend.encode_batch([text, *chats], add_special_tokens=False)
        length = min(_num_equal(header.ids, chat.ids) for chat in encoded)
        return text[header.offsets[length - 1][1] if length else 0 :] if length < len(header.ids) else ""

    def _lay_out(self, messages: ChatMessages, header: bool = False) -> "_Chat | Refused":
        """Render messages. If the template refuses them, it is tried with joined ones (see `_variants`)."""
        refusal: Refused | None = None
        for variant in _variants(list(messages)):
            try:
                layout = self.renderer.lay_out(variant, header)
                if header:
                    layout = replace(layout, text=layout.text.removesuffix(self.renderer.left_out))
                return _Chat(layout, len(messages) - len(variant))
            except Refused as error:
                refusal = refusal or error
        assert refusal is not None  # there is at least one variant
        return refusal

    def _encode(self, chats: "list[_Chat]") -> list[EncodedChat]:
        self._backend.no_truncation()
        self._backend.no_padding()
        encodings = self._backend.encode_batch([chat.layout.text for chat in chats], add_special_tokens=False)
        return [self._encode_one(*pair) for pair in zip(chats, encodings, strict=True)]

    def _encode_one(self, chat: "_Chat", encoding: Any) -> EncodedChat:
        layout, spans = chat.layout, chat.layout.answers
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        control = [span for index, span in pairs if index in self._control_ids]
        matches = [m for m in self.renderer.pattern.finditer(layout.text) if _is_covered(m.span(), control)]
        # A normalizer of the tokenizer may turn other text into a control token, such as one with wide brackets.
        if layout.hidden.originals or len(control) != len(matches):
            encoding, spans = self._encode_hidden(layout, [match.span() for match in matches])
        ids, offsets = np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)
        # Tokens without characters, and those whose offsets leave out white space, begin where the last one ended.
        ends = np.maximum.accumulate(offsets[:, 1])
        starts = np.minimum(offsets[:, 0], np.concatenate(([0], ends[:-1])))
        mask = np.zeros(len(ids), np.uint8)
        answer = len(ids)
        for start, end in spans:
            is_inside = (starts < end) & (ends > start)
            mask[is_inside] = 1
            answer = int(is_inside.argmax()) if is_inside.any() else len(ids)
        if layout.ends_with_answer and not self.surroundings.follows_answer:  # GLM-4.5 puts no end after an answer
            ids, mask = np.append(ids, self.tokenizer.eos_token_id), np.append(mask, np.uint8(1))
        return EncodedChat(ids, mask, answer, chat.num_joined)

    @cached_property
    def _control_ids(self) -> set[int]:
        ids = {int(self.tokenizer.convert_tokens_to_ids(token)) for token in self.renderer.control}
        return ids - {self.tokenizer.unk_token_id}

    def _encode_hidden(self, layout: Layout, control: list[Span]) -> tuple[Any, list[Span]]:
        """Encode a text in which only the tokens at the places `control` become tokens; the answers in that text."""
        used = set(layout.text).union(*layout.hidden.originals.values())
        if self._renamed is None or self._renamed.frame in used - layout.hidden.originals.keys():
            self._renamed = rename(self._backend, self.renderer.control, used)
        replacements, is_token = self._renamed.names | layout.hidden.originals, set(control)
        parts, old, new, last = list[str](), [0], [0], 0  # places in the old text, and the same ones in the new text
        for match in token_pattern(replacements).finditer(layout.text):
            if match[0] in self._renamed.names and match.span() not in is_token:
                continue  # the tokenizer does not take it for a token at this place
            parts += [layout.text[last : match.start()], replacements[match[0]]]
            old += [match.start(), match.end()]
            new += [new[-1] + len(parts[-2]), new[-1] + len(parts[-2]) + len(parts[-1])]
            last = match.end()
        text = "".join([*parts, layout.text[last:]])

        def place(position: int) -> int:
            index = bisect_right(old, position) - 1
            return new[index] + position - old[index]

        spans = [(place(start), place(end)) for start, end in layout.answers]
        return self._renamed.backend.encode(text, add_special_tokens=False), spans


def end_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """The tokens that end an answer of `model`: those of ChatTemplate.end_ids, and those of its generation config."""
    ids = ChatTemplate.of(tokenizer).end_ids
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = stated if isinstance(stated, list | tuple) else [stated]
    return tuple(dict.fromkeys(int(index) for index in (*ids, *own) if index is not None))


def _is_covered(span: Span, spans: list[Span]) -> bool:
    """Whether one of the spans, which are in their order, contains a span."""
    index = bisect_right(spans, span[0], key=lambda other: other[0]) - 1
    return index >= 0 and spans[index][1] >= span[1]


def _num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of equal elements at the beginning of two lists."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@lru_cache(8)
def _template(tokenizer: Any, _source: str) -> ChatTemplate:
    return ChatTemplate(tokenizer)


def rename(backend: Tokenizer, tokens: Iterable[str], used: Collection[str]) -> RenamedTokens:
    """Rename `tokens` in a copy of a tokenizer, without characters of `used`. Raises BadModel if that is impossible."""
    characters = chat_layout.private_characters(used)
    frame = next(characters)
    names = {token: frame + next(characters) for token in tokens}
    spec = json.loads(backend.to_str())
    for token in spec["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False}
    _rename_in_model(spec["model"], names)
    # Without a post-processor nothing is added, and offsets are not trimmed.
    copy = Tokenizer.from_str(json.dumps({**spec, "post_processor": None, "truncation": None, "padding": None}))
    wrong = [token for token, name in names.items() if copy.token_to_id(name) != backend.token_to_id(token)]
    if wrong:
        raise BadModel(
            f"tokenization.tokenizer: the special token {wrong[0]!r} cannot be distinguished from the same text in a "
            "message, because its id depends on its name. Choose another tokenizer."
        )
    return RenamedTokens(copy, names, frame)


def _rename_in_model(model: dict[str, Any], names: dict[str, str]) -> None:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocabulary.items()}
    else:  # Unigram: pairs of a token and its score
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:  # text must not be merged to a control token
        parts = [(merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        model["merges"] = [merge for merge, pair in parts if not {*pair, "".join(pair)} & names.keys()]


class _Chat(NamedTuple):
    """A rendered chat. num_joined: how many messages were joined with others because the template refused them."""

    layout: Layout
    num_joined: int


def _variants(rows: list[Any]) -> Iterator[list[Any]]:
    """The messages, and then, for templates that refuse them, with the following rules applied.

    1. Consecutive messages of one role are joined by an empty line. 2. A system message is joined with the message of
    the user that follows it, by an empty line. 3. Both.
    """
    joined, folded = _join_roles(rows), _fold_system(rows)
    variants = (rows, joined, folded, _join_roles(folded))
    yield from (variant for number, variant in enumerate(variants) if variant not in variants[:number])


def _join_roles(rows: list[Any]) -> list[Any]:
    result: list[Any] = []
    for row in rows:
        if result and result[-1]["role"] == row["role"]:
            result[-1] = _join(result[-1], row)
        else:
            result.append(row)
    return result


def _fold_system(rows: list[Any]) -> list[Any]:
    result: list[Any] = []
    for row in rows:
        if result and result[-1]["role"] == "system" and row["role"] == "user":
            result[-1] = {**_join(result[-1], row), "role": "user"}
        else:
            result.append(row)
    return result


def _join(first: Any, second: Any) -> Any:
    content = "\n\n".join(text for text in (first["content"], second["content"]) if text)
    weight = min(first.get("weight", 1), second.get("weight", 1))
    return {**first, "content": content, "weight": weight}
