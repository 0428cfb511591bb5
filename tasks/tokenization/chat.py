"""Encode conversations as ids, with a loss mask on the assistant's messages and the tokens that end them.

The ids are those of the tokenizer's chat template. For this project's own template they are built directly, which is
faster than rendering the template, and safer: a special token that a user wrote into a message is encoded as
plain text, so that no user can speak in the role of the assistant.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


class Encoder:
    """Encodes texts and messages. With another template than this project's, that template is rendered."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.document, self.end, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self.vocab_size = len(tokenizer)
        self._compiled = CompiledBPE.of(tokenizer.backend_tokenizer)
        self._has_own_template = tokenizer.chat_template == CHAT_TEMPLATE
        if self._has_own_template:
            ids = [tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ROLES]
            self._role_ids = np.array(ids, np.uint32)

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

    def encode_columns(self, conversations: Conversations) -> EncodedBatch:
        """Return ids and loss mask (1 on content and end token of the assistant) of conversations, one after the other.

        Raises BadInput if a foreign chat template changes earlier messages.
        """
        if self._has_own_template:
            return self._encode_own(conversations)
        encoded = [self._render_with_mask(messages) for messages in conversations.messages()]
        starts = np.concatenate(([0], np.cumsum([len(ids) for ids, _ in encoded]))).astype(np.int64)
        ids = [np.zeros(0, np.uint32), *(ids.astype(np.uint32) for ids, _ in encoded)]
        return np.concatenate(ids), np.concatenate([np.zeros(0, np.uint8), *(mask for _, mask in encoded)]), starts

    def encode_conversations(self, conversations: Sequence[Sequence[Message]]) -> list[EncodedConversation]:
        """As `encode_columns`, for conversations that are given as messages."""
        ids, mask, starts = self.encode_columns(columns.from_messages(conversations))
        return [(ids[start:end].astype(np.int64), mask[start:end]) for start, end in pairwise(starts.tolist())]

    def encode_prompts(self, conversations: Sequence[Sequence[Message]]) -> list[IdArray]:
        """Return the ids of each conversation, followed by the header of the assistant's next message."""
        if not self._has_own_template:
            return [self._render(messages, True) for messages in conversations]
        header = np.array([self._role_ids[ROLES.index("assistant")]])
        return [np.concatenate((ids, header)) for ids, _ in self.encode_conversations(conversations)]

    def encode_answers(self, texts: Sequence[str]) -> list[IdArray]:
        """Return the ids of each answer, followed by the end token."""
        end = np.array([self.end])
        return [np.concatenate((ids, end)) for ids in self.encode_texts(texts)]

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

    def _render_with_mask(self, messages: Sequence[Message]) -> EncodedConversation:
        """Render a foreign template. The mask is on the ids that each message of the assistant adds.

        The conversation is rendered up to the header of each such message and up to its end; the difference is the
        message. This is only correct if a later message does not change how earlier ones are rendered.
        """
        ids = self._render(messages, False)
        mask = np.zeros(len(ids), np.uint8)
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and message.get("weight", 1) != 0:
                before, after = self._render(messages[:index], True), self._render(messages[: index + 1], False)
                if not (np.array_equal(ids[: len(before)], before) and np.array_equal(ids[: len(after)], after)):
                    raise BadInput(
                        "The chat template of tokenization.tokenizer changes earlier messages, so that the tokens of "
                        "the assistant cannot be determined. Remove the chat template from the tokenizer; then the "
                        "plain template of this project is used."
                    )
                mask[len(before) : len(after)] = 1
        return ids, mask

    def _render(self, messages: Sequence[Message], add_header: bool) -> IdArray:
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        rendered = self.tokenizer.apply_chat_template(
            plain, tokenize=True, add_generation_prompt=add_header, return_dict=False
        )
        return np.array(rendered, np.int64)
