"""Byte-level BPE (Sennrich 2016, arXiv:1508.07909, over UTF-8 bytes): any text goes in and comes out unchanged."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

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

# Where a token may not reach across. Digits and Chinese numerals stand alone, so that numbers are spelled and never
# guessed; Han and other letters are kept apart; a word takes the one mark or blank before it along.
_HAN = rf"[\p{{Han}}&&[^{NUMERALS}]]"
_LETTER = r"[\p{L}\p{M}&&[^\p{Han}]]"
PATTERN = "|".join(
    (
        rf"\p{{N}}|[{NUMERALS}]",
        rf"{_HAN}+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTER}+",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def train(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> Any:
    """A Hugging Face fast tokenizer of exactly `vocab_size` tokens, special tokens and 256 bytes among them.

    Raises BadParams where `texts` hold too few different pairs to fill the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    filled, basic = tokenizer.get_vocab_size(), len(SPECIAL) + 256
    if filled < vocab_size:
        raise BadParams(
            f"tokenization.vocab_size is {vocab_size}, but the corpus fills only {filled}: {basic} to begin with and "
            f"{filled - basic} merges of pairs seen at least {min_frequency} times. Ask for at most {filled}, or bring "
            f"more text (tokenization.share, ingestion.sources)."
        )
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def load(name: str) -> Any:
    """The tokenizer `name` (a folder or hub name), with what it lacks added: role tokens, bos, eos, pad, template.

    Raises BadModel where there is none or it is not a fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise BadModel(f"tokenization.tokenizer: {name} cannot be loaded as a tokenizer: {said}") from error
    if not tokenizer.is_fast:
        raise BadModel(f"tokenization.tokenizer: {name} has no fast version (tokenizer.json)")
    return complete(tokenizer)


def complete(tokenizer: Any) -> Any:
    """Add what the tokenizer of another model lacks; ids that it has stay as they are."""
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
    """Write the files that `AutoTokenizer.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
