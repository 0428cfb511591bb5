"""The tokenizer of a model as GGUF stores it: tokens, their types, merges, special ids and a pre-tokenizer.

llama.cpp knows pre-tokenizers by name only, so that of a tokenizer is the one with the same pattern. Without one, the
tokenizer gets the one that gives most of the PROBES the same tokens, and the number of the others is stated.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, pre_tokenizers

from tasks import chat_templates
from tasks.errors import BadModel, BadParams

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama_token_type of llama.cpp
_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class PreTokenizer(NamedTuple):
    """The patterns that llama.cpp applies one after the other; recent: older versions do not know the name."""

    patterns: tuple[str, ...]
    recent: bool = False


# The names and patterns are those of llama.cpp (src/llama-vocab.cpp).
PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer((r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)),
    "qwen2": PreTokenizer((rf"{_CONTRACTIONS}{_WORD}|\p{{N}}|{_REST}",)),
    "llama-bpe": PreTokenizer((rf"{_CONTRACTIONS}{_WORD}|\p{{N}}{{1,3}}|{_REST}",)),
    "smollm": PreTokenizer(
        (r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    ),
    "ufakzeka": PreTokenizer((rf"{_WORD}|\p{{N}}|{_REST}",), recent=True),  # that of qwen2 without contractions
}
PROBES = (
    "The quick brown fox jumps over the lazy dog.", "It's what they've said: we'll see, don't I'd?",
    "DON'T SHOUT, I'M HERE", "'today' 'section' 'various'", "1234567 apples, 3.14159 and 2026-11-30",
    "one  two   three    four", "a\tb\t\tc", "line\nline\r\nline\n\n\nend ", "  leading and trailing  ",
    "https://example.org/a?b=c&d=%20", "x = y ** 2  # comment", "if (a[0] != b) {\n    return -1;\n}",
    "naïve café, Zürich, e\u0301", "«quoted» “quoted” ‘quoted’", "…… —— ~~ ==", "你好，世界！",
    "今天是二〇二六年十一月三十日。", "三千八百零七", "翻译成英文：一万九千", "中文English混合123三百",
    "第一章  开始\n\n　　正文。", "他说：“好的。”", "价格：￥99.9（含税）", "日本語のテキスト", "한국어 텍스트",
    "Привет, мир", "👍🏽 emoji 😀", "<b>bold</b> &amp; more", "- item\n- item\n", "a,b;c:d.e", "十 百 千",
    "twenty-one thousand",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What GGUF stores of a tokenizer. different_probes: those of PROBES that llama.cpp will split in another way."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre_tokenizer: str
    different_probes: int
    special_ids: dict[str, int]
    adds_first_token: bool
    chat_template: str | None
    end_tokens: tuple[str, ...]


def read(tokenizer: Any, model: Any, num_embeddings: int, pre_tokenizer: str | None) -> Vocabulary:
    """The vocabulary of a tokenizer of transformers, with a token for each of the embeddings of its `model`.

    pre_tokenizer: a name of PRE_TOKENIZERS; None chooses one. Raises BadModel unless it is a byte-level BPE.
    """
    backend = tokenizer.backend_tokenizer
    description = json.loads(backend.to_str())
    _check(description)
    name, different = choose(backend, description, pre_tokenizer)
    end_ids = chat_templates.end_ids(tokenizer, model)
    special = {"bos": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id}
    special |= dict(zip(("eos", "eot", "eom"), end_ids, strict=False))  # llama.cpp stops at each of these three
    tokens, types = _tokens(backend, description, num_embeddings)
    return Vocabulary(
        tokens,
        types,
        [" ".join(merge) if isinstance(merge, list) else merge for merge in description["model"]["merges"]],
        name,
        different,
        {key: int(index) for key, index in special.items() if index is not None},
        tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id],
        tokenizer.chat_template,
        tuple(str(tokenizer.convert_ids_to_tokens(index)) for index in end_ids),
    )


def _check(description: dict[str, Any]) -> None:
    """Raise BadModel unless a tokenizer.json is a byte-level BPE without a normalizer that changes texts."""
    model, normalizer = description["model"], description["normalizer"]
    parts = _parts(description["pre_tokenizer"])
    is_byte_level = any(part["type"] == "ByteLevel" for part in parts)
    if model["type"] != "BPE" or not is_byte_level or model.get("byte_fallback"):
        raise BadModel(
            "the tokenizer is no byte-level BPE, the only kind that this export to GGUF writes; export the model to "
            "safetensors-fp16 or safetensors-bf16 instead."
        )
    if normalizer is not None and normalizer != {"type": "NFC"}:  # llama.cpp applies none; NFC changes few texts
        raise BadModel(
            f"the tokenizer normalizes texts ({normalizer['type']}), which llama.cpp does not do for a byte-level BPE; "
            "export the model to safetensors-fp16 or safetensors-bf16 instead."
        )


def _parts(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    return list((pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else []))


def _tokens(backend: Tokenizer, description: dict[str, Any], num_embeddings: int) -> tuple[list[str], list[int]]:
    """Every token and its type, by id; embeddings without a token get a name of their own."""
    added = {token["id"]: token for token in description["added_tokens"]}
    tokens, types = list[str](), list[int]()
    for index in range(num_embeddings):
        token = backend.id_to_token(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            types.append(UNUSED)
            continue
        tokens.append(token)
        of_added = added.get(index)
        types.append(NORMAL if of_added is None else CONTROL if of_added["special"] else USER_DEFINED)
    return tokens, types


def choose(backend: Tokenizer, description: dict[str, Any], name: str | None) -> tuple[str, int]:
    """Return the name of a pre-tokenizer, and how many PROBES get other tokens than from the tokenizer itself.

    name: the one to take; None takes the best of those that are not recent. Raises BadParams for an unknown name.
    """
    if name is not None and name not in PRE_TOKENIZERS:
        raise BadParams(f"--pre-tokenizer: there is no {name!r}; available: {', '.join(PRE_TOKENIZERS)}")
    names = [name] if name else [key for key, value in PRE_TOKENIZERS.items() if not value.recent]
    counts = {key: _count_differences(backend, description, key) for key in names}
    best = min(names, key=lambda key: counts[key])  # the first of equal ones
    return best, counts[best][0]


def _count_differences(backend: Tokenizer, description: dict[str, Any], name: str) -> tuple[int, int]:
    """How many PROBES get other tokens with this pre-tokenizer of llama.cpp, and how many are split otherwise.

    Different splits may give the same tokens: without a merge across a boundary, the boundary makes no difference.
    """
    other = Tokenizer.from_str(json.dumps(description | {"normalizer": None, "pre_tokenizer": None}))
    other.pre_tokenizer = _pre_tokenizer(name)
    tokens = splits = 0
    for text in PROBES:
        one, two = (each.encode(text, add_special_tokens=False).ids for each in (backend, other))
        tokens += one != two
        splits += backend.pre_tokenizer.pre_tokenize_str(text) != other.pre_tokenizer.pre_tokenize_str(text)
    return tokens, splits


@cache
def _pre_tokenizer(name: str) -> Any:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
