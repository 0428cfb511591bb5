"""Byte-level BPE by compiled kernels, with exactly the ids of the `tokenizers` library, in a fraction of its time.

It serves the tokenizers that this project trains, and those of GPT-2, Llama 3 and Qwen 2 as far as their description
has no more parts. `CompiledBPE.of` returns None for every other tokenizer, which the library then encodes.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.tokenization import merge_kernels, patterns, word_kernels
from tasks.tokenization.columns import string_buffers
from tasks.tokenization.merge_kernels import UInt32Array
from tasks.tokenization.patterns import Int64Array, Rules

_PLAIN_MODEL = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip


class CompiledBPE:
    """The tables of one tokenizer, and the words that were encoded before. One thread may use it at a time."""

    def __init__(self, model: dict[str, Any], rules: Rules) -> None:
        vocabulary: dict[str, int] = model["vocab"]
        self._rules, self._classes = rules.numeric(), rules.class_table()
        self._byte_ids = np.array([vocabulary[character] for character in byte_characters()], np.uint32)
        pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
        firsts, seconds = (np.array([vocabulary[pair[k]] for pair in pairs], np.int64) for k in range(2))
        self._merged = np.array([vocabulary["".join(pair)] for pair in pairs], np.uint32)
        num_slots = 1 << (4 * len(pairs) + 1).bit_length()
        self._keys, self._ranks = np.empty(num_slots, np.uint64), np.zeros(num_slots, np.int64)
        merge_kernels.fill_table(firsts, seconds, self._keys, self._ranks)
        self._words, self._counts = np.zeros((word_kernels.NUM_SLOTS, 4), np.int64), np.zeros(3, np.int64)
        self._word_bytes = np.empty(word_kernels.MEMORY, np.uint8)
        self._word_ids = np.empty(word_kernels.MEMORY, np.uint32)

    @classmethod
    def of(cls, backend: Any) -> "CompiledBPE | None":
        """Return an encoder for a `tokenizers.Tokenizer`; None if it has a part that the kernels do not know.

        Added tokens must be special, because special tokens in a text are encoded as plain text.
        """
        spec = json.loads(backend.to_str())
        model = spec["model"]
        rules = patterns.rules_of(spec["pre_tokenizer"])
        has_other_parts = any(spec[name] for name in ("normalizer", "truncation", "padding"))
        has_other_tokens = not all(token["special"] for token in spec["added_tokens"])
        if rules is None or has_other_parts or has_other_tokens or not _is_plain(model):
            return None
        return cls(model, rules)

    def encode(self, texts: pa.Array, num_before: Int64Array, num_after: Int64Array) -> tuple[UInt32Array, Int64Array]:
        """Return ids of strings, and where those of each text start, int64 [num_texts + 1].

        num_before, num_after: entries that are left free before and after the ids of each text, [num_texts].
        """
        data, offsets = string_buffers(texts)
        space = int(offsets[-1] - offsets[0] + num_before.sum() + num_after.sum())
        ids, starts = np.empty(space, np.uint32), np.empty(len(texts) + 1, np.int64)
        word_kernels.encode_texts(
            data, offsets, num_before, num_after, self._classes, self._rules, self._byte_ids, self._keys, self._ranks,
            self._merged, self._words, self._counts, self._word_bytes, self._word_ids, ids, starts,
        )  # fmt: skip
        return ids[: starts[-1]], starts


def byte_characters() -> Sequence[str]:
    """Return the character by which byte-level BPE represents each byte, as GPT-2 defined them: [256].

    Bytes that are visible Latin-1 characters represent themselves, and the others follow from U+0100 on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    invisible = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 0x100 + invisible.index(byte)) for byte in range(256)]


def _is_plain(model: dict[str, Any]) -> bool:
    """Return whether a model is BPE with all bytes and no option of its own."""
    values = {name: model.get(name, value) or value for name, value in _PLAIN_MODEL.items()}
    return values == _PLAIN_MODEL and all(character in model["vocab"] for character in byte_characters())
