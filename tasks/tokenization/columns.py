"""Conversations as columns: the messages of a batch one after the other, and where each conversation starts.

Arrow stores a table of conversations in this form, so that no Python object per message is needed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.compiled import kernel
from tasks.conversations import ROLES, UNTRAINED, Message
from tasks.tokenization.patterns import NUM_CODE_POINTS, Int64Array, UInt8Array
from tasks.tokenization.split_kernels import BYTES, TABLE, character_at

BoolArray = npt.NDArray[np.bool_]

LETTER, KANA, HANGUL, HAN = (1 << bit for bit in range(4))
LANGUAGES = {"ja": KANA, "ko": HANGUL, "zh": HAN}  # in this order, because Japanese and Korean texts contain Han, too
_RANGES = {KANA: [(0x3041, 0x30FF)], HANGUL: [(0xAC00, 0xD7A3)], HAN: [(0x4E00, 0x9FFF), (0x3400, 0x4DBF)]}
SCRIPT_MESSAGES, SCRIPT_CHARACTERS = 3, 200  # the first messages, and of each the first characters, that are looked at


@dataclass(frozen=True, slots=True)
class Conversations:
    """The messages of a batch of conversations.

    contents: strings, [num_messages]. roles: indices into ROLES, int64 [num_messages]. starts: the first message of
    each conversation, int64 [num_conversations + 1]. is_target: whether the model should learn to write a message,
    [num_messages].
    """

    contents: pa.Array
    roles: Int64Array
    starts: Int64Array
    is_target: BoolArray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def messages(self) -> list[list[Message]]:
        """Return the messages of each conversation."""
        roles, contents = self.roles.tolist(), self.contents.to_pylist()
        answer = ROLES.index("assistant")
        messages = [
            Message(role=ROLES[role], content=content, weight=int(is_target or role != answer))
            for role, content, is_target in zip(roles, contents, self.is_target.tolist(), strict=True)
        ]
        return [messages[first:last] for first, last in pairwise(self.starts.tolist())]

    def languages(self) -> list[str]:
        """Return the language that the script of each conversation tells: zh, ja, ko, or otherwise `latin`.

        Conversations are not identified by language like documents; a tenth of the letters at their start decides.
        """
        data, offsets = string_buffers(self.contents)
        counts = np.zeros((len(self), 4), np.int64)
        _count_scripts(data, offsets, self.starts, _script_table(), counts)
        num_letters = np.maximum(1, counts[:, 0])
        is_of = [counts[:, bit.bit_length() - 1] >= num_letters / 10 for bit in LANGUAGES.values()]
        return [str(name) for name in np.select(is_of, list(LANGUAGES), "latin")]


def from_table(table: pa.Table) -> Conversations:
    """Return the conversations of a table with the columns `messages` and `metadata`.

    Answers that are context only, as their metadata say, are no targets.
    """
    messages = table["messages"].combine_chunks()
    lengths = np.asarray(pc.list_value_length(messages), np.int64)
    roles, contents = messages.flatten().flatten()
    result = _conversations(contents, np.asarray(pc.index_in(roles, pa.array(ROLES)), np.int64), lengths)
    has_untrained = pc.match_substring(table["metadata"], f'"{UNTRAINED}"')
    for number in np.flatnonzero(has_untrained).tolist():
        indices = json.loads(table["metadata"][number].as_py())[UNTRAINED]
        result.is_target[result.starts[number] + np.array(indices, np.int64)] = False
    return result


def from_messages(conversations: Sequence[Sequence[Message]]) -> Conversations:
    """Return conversations that are given as messages; an answer with the weight 0 is no target."""
    messages = [message for conversation in conversations for message in conversation]
    contents = pa.array([message["content"] for message in messages], pa.large_string())
    roles = np.array([ROLES.index(message["role"]) for message in messages], np.int64)
    result = _conversations(contents, roles, np.array([len(each) for each in conversations], np.int64))
    result.is_target[[message.get("weight", 1) == 0 for message in messages]] = False
    return result


def string_buffers(texts: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """Return the bytes of strings and their offsets, int64 [num_texts + 1]. The bytes are not copied."""
    texts = texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    # Arrow's buffers are read-only. The kernels are compiled for writable offsets; these are few.
    return np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1].copy()


def _conversations(contents: pa.Array, roles: Int64Array, lengths: Int64Array) -> Conversations:
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Conversations(contents, roles, starts, roles == ROLES.index("assistant"))


@cache
def _script_table() -> UInt8Array:
    """Return the bits LETTER, KANA, HANGUL and HAN of each code point, uint8 [NUM_CODE_POINTS]."""
    is_letter = [chr(code).isalnum() and not chr(code).isdecimal() for code in range(NUM_CODE_POINTS)]
    table = np.array(is_letter, np.uint8) * np.uint8(LETTER)
    for bit, ranges in _RANGES.items():
        for first, last in ranges:
            table[first : last + 1] |= bit
    return table


@kernel(f"void({BYTES}, int64[::1], int64[::1], {TABLE}, int64[:, ::1])")
def _count_scripts(
    data: UInt8Array, offsets: Int64Array, starts: Int64Array, table: UInt8Array, counts: npt.NDArray[np.int64]
) -> None:
    """Count the characters of each bit of `table` at the start of each conversation: [num_conversations, 4]."""
    for conversation in range(len(starts) - 1):
        last = min(starts[conversation + 1], starts[conversation] + SCRIPT_MESSAGES)
        for message in range(starts[conversation], last):
            i, end = offsets[message], offsets[message + 1]
            num_characters = 0
            while i < end and num_characters < SCRIPT_CHARACTERS:
                bits, i = character_at(data, i, end, table)
                num_characters += 1
                for bit in range(4):
                    counts[conversation, bit] += bits >> bit & 1
