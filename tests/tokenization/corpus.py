"""A small corpus that is sufficient for a vocabulary of a few hundred tokens."""

from typing import Any

from tasks.tokenization import bpe

SENTENCES = [
    "the cat sat on the mat and the dog sat on the log",
    "three hundred twenty-one is written 321 and 三百二十一",
    "翻译成英文 翻译成中文 翻译成英文 the translation of the text",
    "def function(argument):\n    return argument.attribute\n",
]


def tokenizer(vocab_size: int = 300) -> Any:
    return bpe.train(SENTENCES * 3, vocab_size)
