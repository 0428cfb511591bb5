"""Encode conversations as ids, with a loss mask on the assistant's messages and the tokens that end them.

The ids are those of the tokenizer's chat template. For this project's own template they are built directly, which is
faster than rendering the template (see tasks/chat_templates.py). A special token that a user wrote into a message is
encoded as plain text, so that no user can speak in the role of the assistant.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.chat_layout import Refused
from tasks.chat_templates import ChatTemplate, EncodedChat, EncodedPair
from tasks.conversations import ROLES, Message
from tasks.errors import BadInput
from tasks.tokenization import columns
from tasks.tokenization.bpe import CHAT_TEMPLATE
from tasks.tokenization.columns import Conversations
from tasks.tokenization.compiled_bpe import CompiledBPE
from tasks.tokenization.merge_kernels import UInt32Array
from tasks.tokenization.patterns import Int64Array

IdArray = npt.NDArray[np.int64]
EncodedConversation = tuple[IdArray, npt.NDArray[np.uint8]]
"""ids and loss mask, both [num_tokens]"""
EncodedBatch = tuple[UInt32Array, npt.NDArray[np.uint8], Int64Array]
"""ids and loss mask of several conversations, both [num_tokens], and where each starts, [num_conversations + 1]"""
Flat = tuple[UInt32Array, Int64Array]
"""ids of several texts, [num_tokens], and where each text starts, [num_texts + 1]"""
Refusals = dict[int, str]
"""index of a record that the template refuses -> the reason"""
NO_IDS: IdArray = np.zeros(0, np.int64)
T = TypeVar("T", EncodedChat, EncodedPair)


class Encoder:
    """Encodes texts and messages. With another template than this project's, that template is rendered.

    num_joined: the number of records so far of which messages were joined, because the template refused them alone.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.document, self.end, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self.vocab_size = len(tokenizer)
        self._compiled = CompiledBPE.of(tokenizer.backend_tokenizer)
        self.num_joined = 0
        self._template = None if tokenizer.chat_template == CHAT_TEMPLATE else ChatTemplate.of(tokenizer)
        if self._template is None:
            ids = [tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ROLES]
            self._role_ids = np.array(ids, np.uint32)

    @property
    def has_foreign_template(self) -> bool:
        """Whether another template than this project's is rendered; only such a template refuses records."""
        return self._template is not None

    def refusal(self, prompt: Sequence[Message]) -> str | None:
        """Return why the template refuses a prompt; None if it does not."""
        return None if self._template is None else self._template.refusal(prompt)

    def encode_flat(self, texts: pa.Array, num_before: Int64Array, num_after: Int64Array) -> Flat:
        """Return the ids of all texts in one array, and where each text starts, int64 [num_texts + 1].

        No special tokens are added, and those in a text are encoded as plain text. num_before, num_after: entries that
        are left free before and after the ids of each text, [num_texts].
        """
        if self._compiled is not None:
            return self._compiled.encode(texts, num_before, num_after)
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True  # despite its name: split special tokens like any other text
        try:
            encodings = backend.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        finally:
            backend.encode_special_tokens = False
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        starts = np.concatenate(([0], np.cumsum(num_before + lengths + num_after)))
        ids = np.empty(starts[-1], np.uint32)
        for encoding, start, length in zip(encodings, starts[:-1] + num_before, lengths, strict=True):
            ids[start : start + length] = encoding.ids
        return ids, starts

    def encode_texts(self, texts: Sequence[str]) -> list[IdArray]:
        """Return the ids of each text. No special tokens are added, and those in a text are encoded as plain text."""
        nothing = np.zeros(len(texts), np.int64)
        ids, starts = self.encode_flat(pa.array(texts, pa.large_string()), nothing, nothing)
        return [ids[start:end].astype(np.int64) for start, end in pairwise(starts.tolist())]

    def encode_documents(self, texts: pa.Array) -> Flat:
        """Return the ids of each text after the token that starts a document."""
        ids, starts = self.encode_flat(texts, np.ones(len(texts), np.int64), np.zeros(len(texts), np.int64))
        ids[starts[:-1]] = self.document
        return ids, starts

    def encode_columns(self, conversations: Conversations, refused: Refusals | None = None) -> EncodedBatch:
        """Return ids and loss mask (1 on content and end token of the assistant) of conversations, one after the other.

        A conversation that a foreign template refuses has no ids, and its reason is added to `refused`.
        """
        if self._template is None:
            return self._encode_own(conversations)
        encoded = self._accepted(self._template.encode_chats(conversations.messages()), refused)
        starts = np.concatenate(([0], np.cumsum([len(chat.ids) if chat else 0 for chat in encoded]))).astype(np.int64)
        ids = [np.zeros(0, np.uint32), *(chat.ids.astype(np.uint32) for chat in encoded if chat)]
        masks = [np.zeros(0, np.uint8), *(chat.mask for chat in encoded if chat)]
        return np.concatenate(ids), np.concatenate(masks), starts

    def encode_conversations(
        self, conversations: Sequence[Sequence[Message]], refused: Refusals | None = None
    ) -> list[EncodedConversation]:
        """As `encode_columns`, for conversations that are given as messages."""
        ids, mask, starts = self.encode_columns(columns.from_messages(conversations), refused)
        return [(ids[start:end].astype(np.int64), mask[start:end]) for start, end in pairwise(starts.tolist())]

    def encode_prompts(
        self, conversations: Sequence[Sequence[Message]], refused: Refusals | None = None
    ) -> list[IdArray]:
        """Return the ids of each conversation, followed by the header of the assistant's next message."""
        if self._template is not None:
            encoded = self._accepted(self._template.encode_prompts(conversations), refused)
            return [chat.ids if chat else NO_IDS for chat in encoded]
        header = np.array([self._role_ids[ROLES.index("assistant")]])
        return [np.concatenate((ids, header)) for ids, _ in self.encode_conversations(conversations)]

    def encode_answered(
        self, prompts: Sequence[Sequence[Message]], *answers: Sequence[str], refused: Refusals | None = None
    ) -> list[list[IdArray]]:
        """Return the ids of prompts and of answers to them: one list for the prompts, and one for each of `answers`.

        A prompt with an answer has the ids of the conversation that ends with this answer. Answers end with the end
        token, and with what the template puts after it.
        """
        if self._template is None:
            return [self.encode_prompts(prompts), *map(self._encode_own_answers, answers)]
        template = self._template
        pairs = [template.encode_pair(prompt, texts) for prompt, *texts in zip(prompts, *answers, strict=True)]
        accepted = self._accepted(pairs, refused)
        return [
            [pair.prompt if pair else NO_IDS for pair in accepted],
            *([pair.answers[i] if pair else NO_IDS for pair in accepted] for i in range(len(answers))),
        ]

    def _encode_own_answers(self, texts: Sequence[str]) -> list[IdArray]:
        end = np.array([self.end])
        return [np.concatenate((ids, end)) for ids in self.encode_texts(texts)]

    def _accepted(self, encoded: Sequence[T | Refused], refused: Refusals | None) -> list[T | None]:
        """Return what the template accepted, and add the reasons of the rest to `refused`. Count joined messages."""
        result = list[T | None]()
        for index, record in enumerate(encoded):
            if not isinstance(record, Refused):
                self.num_joined += record.num_joined > 0
                result.append(record)
                continue
            if refused is None:
                raise BadInput(f"The chat template of tokenization.tokenizer refuses a conversation: {record}.")
            refused[index] = str(record)
            result.append(None)
        return result

    def _encode_own(self, conversations: Conversations) -> EncodedBatch:
        """Join <|document|>, then <|role|> content <|end|> for each message, as CHAT_TEMPLATE does."""
        is_empty = np.diff(conversations.starts) == 0
        first_messages = conversations.starts[:-1][~is_empty]
        num_before, num_after = np.ones((2, len(conversations.contents)), np.int64)
        num_before[first_messages] = 2
        ids, starts = self.encode_flat(conversations.contents, num_before, num_after)
        documents, headers = starts[first_messages], starts[:-1] + num_before - 1
        ids[documents], ids[headers], ids[starts[1:] - 1] = self.document, self._role_ids[conversations.roles], self.end
        mask = np.repeat(conversations.is_target.astype(np.uint8), np.diff(starts))
        mask[documents] = mask[headers] = 0
        firsts = starts[conversations.starts]
        if is_empty.any():  # a conversation without messages consists of <|document|>
            places = firsts[:-1][is_empty]
            ids, mask = np.insert(ids, places, self.document), np.insert(mask, places, 0)
            firsts = firsts + np.concatenate(([0], np.cumsum(is_empty)))
        return ids, mask, firsts
