"""A tiny data folder: a model, preference pairs and prompts. Letters are tokens; the answer to a letter is the next."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import models as folders
from tasks.pairs import write_pairs, write_prompts

SPECIAL = ["<|pad|>", "<|document|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = [*SPECIAL, *"abcdefghijklmnop", "."]


def tokenizer() -> Any:
    """A tokenizer in which every letter is a token."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<|pad|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|document|>", eos_token="<|end|>", pad_token="<|pad|>"
    )


def model(seed: int = 0, width: int = 16, std: float = 0.02) -> Any:
    """A Llama with two layers and random weights."""
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=5, initializer_range=std,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def ids(words: str) -> list[int]:
    """The ids of words such as "a b"."""
    return [WORDS.index(word) for word in words.split()]


def prompt(words: str) -> list[int]:
    """The ids of a user's message and of the header of the assistant's answer."""
    return ids(f"<|document|> <|user|> {words} <|end|> <|assistant|>")


def answer(words: str) -> list[int]:
    """The ids of an answer with its end token."""
    return ids(f"{words} <|end|>")


def pair_files(folder: Path, rows: list[tuple[str, str, str]], reasons: list[str] | None = None) -> None:
    """Write rows of (prompt, chosen, rejected) in the format of tokenization."""
    columns = {
        "prompt": [np.array(prompt(row[0])) for row in rows],
        "chosen": [np.array(answer(row[1])) for row in rows],
        "rejected": [np.array(answer(row[2])) for row in rows],
    }
    write_pairs(folder, columns, reasons or ["style"] * len(rows), [None] * len(rows), len(WORDS))


def prompt_files(folder: Path, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Write prompts with the metadata of each."""
    metadata = [{"text": text, **about} for text, about in rows]
    ids = [np.array(prompt(text)) for text, _ in rows]
    write_prompts(folder, ids, metadata, len(WORDS), [str(about.get("task", "")) for _, about in rows])


def write_data(data: Path, seed: int = 0) -> Path:
    """Write an untrained sft model, pairs whose chosen answer ends with a dot, and prompts for the next letter."""
    own = tokenizer()
    own.save_pretrained(data / "tokens/tokenizer")
    folders.save(data / "models/sft", model(seed), own, {"stage": "sft"})
    letters = "abcdefghijklmno"
    rows = [(x, f"{chr(ord(x) + 1)} .", chr(ord(x) + 1)) for x in letters]
    abouts = [(x, {"task": "letters", "answer": chr(ord(x) + 1), "closing": "."}) for x in letters]
    for split in ("train", "validation"):
        pair_files(data / "tokens/preferences" / split, rows)
        prompt_files(data / "tokens/prompts" / split, abouts)
    return data


def num_dots(answer: str, metadata: Mapping[str, Any]) -> float:
    """A reward function that counts dots."""
    return float(answer.count("."))


def right_and_in_style(answer: str, metadata: Mapping[str, Any]) -> float:
    """A reward function that agrees with the gold measure: the right answer, then a dot."""
    return float(answer == f"{metadata['answer']} .")


class Killed(BaseException):
    """Raised to end a run in the middle."""


@contextmanager
def fail_at(work: type[Any], at_step: int) -> Iterator[None]:
    """Within the block, a run with this kind of work fails with Killed before `at_step`; asserts that it does."""
    original = work.batches

    def batches(self: Any, step: int) -> Any:
        if step == at_step:
            raise Killed
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "batches", batches)
        with pytest.raises(Killed):
            yield
