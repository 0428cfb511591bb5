"""Byte-level byte-pair encoding (BPE; Sennrich 2016, arXiv:1508.07909, on UTF-8 bytes). Encoding loses no information.

Because all 256 bytes are tokens, every text can be encoded and no unknown token is needed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tasks.chat_templates import ChatTemplate
from tasks.errors import BadModel, BadParams

PAD, DOCUMENT, SYSTEM, USER, ASSISTANT, END = SPECIAL = (
    "<|pad|>", "<|document|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('a role is system, user or assistant, not ' + message['role']) }}{%- endif %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)

NUMERALS = "〇零一二三四五六七八九十百千万亿"

# Pre-tokenization: a text is split into the matches of PATTERN, and BPE merges bytes only within a match.
# - Every digit and Chinese numeral is a match of its own, so that the model reads numbers digit by digit. A tokenizer
#   that merges digits splits similar numbers differently, which makes arithmetic and transcription hard to learn.
# - Han characters and other letters are separate, so that no token mixes two scripts.
# - A word includes the one space or punctuation mark before it, as in GPT-4's pattern: " the" is one token.
# - No match is longer than MAX_WORD characters: the time of training grows with the square of the length of a word, so
#   that one line of 250,000 letters without a space would take days.
# The alternatives are tried in order; `&&` is intersection in the syntax of Oniguruma, which `tokenizers` uses.
HAN = rf"[\p{{Han}}&&[^{NUMERALS}]]"
MAX_WORD = 256
LETTER = r"[\p{L}\p{M}&&[^\p{Han}]]"
_ANY, _SOME = f"{{0,{MAX_WORD}}}", f"{{1,{MAX_WORD}}}"
PATTERN = "|".join(
    (
        rf"\p{{N}}|[{NUMERALS}]",  # one digit or numeral
        rf"{HAN}{_SOME}",  # Han characters that are not numerals
        rf"[^\r\n\p{{L}}\p{{N}}]?{LETTER}{_SOME}",  # a word, with one space or mark before it
        rf" ?[^\s\p{{L}}\p{{N}}]{_SOME}[\r\n]{_ANY}",  # punctuation, with the line ends after it
        rf"\s{_ANY}[\r\n]{_SOME}",  # line ends
        rf"\s{_SOME}(?!\S)",  # spaces except the last one, which belongs to the next word
        rf"\s{_SOME}",
    )
)


def train(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> Any:
    """Train a Hugging Face fast tokenizer of exactly `vocab_size` tokens, including special tokens and 256 bytes.

    min_frequency: a pair of tokens is merged only if it occurs so often.
    Raises BadParams if `texts` have too few frequent pairs to fill the vocabulary.
    """
    tokenizer = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return finish(tokenizer, vocab_size, min_frequency)


def untrained() -> Tokenizer:
    """Return a tokenizer without tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def finish(tokenizer: Tokenizer, vocab_size: int, min_frequency: int) -> Any:
    """Return a trained tokenizer as a Hugging Face fast tokenizer. Raises BadParams if it has fewer tokens."""
    size, initial_size = tokenizer.get_vocab_size(), len(SPECIAL) + 256
    if size < vocab_size:
        raise BadParams(
            f"tokenization.vocab_size is {vocab_size}, but the corpus is sufficient for {size} tokens only: "
            f"{initial_size} initial ones and {size - initial_size} merges of pairs that occur at least "
            f"{min_frequency} times. Set vocab_size to at most {size}, or add text (tokenization.share, "
            "ingestion.sources)."
        )
    return _to_transformers(tokenizer)


def _to_transformers(tokenizer: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",  # generation appends to the right end of every prompt of a batch
    )
    fast_tokenizer.chat_template = CHAT_TEMPLATE
    return fast_tokenizer


def load(name: str) -> Any:
    """Load the tokenizer `name` (a folder or hub name) and add the tokens and the chat template that it lacks.

    Raises BadModel if there is none, if it has no fast version, or if its chat template cannot render a chat.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json is a bare Exception of the package tokenizers
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadModel(
            f"tokenization.tokenizer: {name} cannot be loaded as a tokenizer: {message} Set it to a folder or to a "
            "name on the Hugging Face Hub."
        ) from error
    if not tokenizer.is_fast:
        raise BadModel(
            f"tokenization.tokenizer: {name} has no fast version (tokenizer.json); choose another tokenizer."
        )
    tokenizer = add_missing_tokens(tokenizer)
    _ = ChatTemplate.of(tokenizer).end_ids  # a template that cannot render a chat is refused before any work
    return tokenizer


def add_missing_tokens(tokenizer: Any) -> Any:
    """Add the tokens for start, end and padding, and the chat template with its roles, unless the tokenizer has them.

    Existing ids do not change, so that the weights of the tokenizer's model remain valid.
    """
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": DOCUMENT})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if tokenizer.chat_template is None:
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (SYSTEM, USER, ASSISTANT) if token not in vocabulary]
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save(folder: Path, tokenizer: Any) -> None:
    """Write `tokenizer` in the format that `AutoTokenizer.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
