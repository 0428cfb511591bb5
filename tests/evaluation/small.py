"""A small project on disk: byte tokens, five tiny random models, and few documents, prompts and pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tasks import models as folders
from tasks import tokens
from tasks.engine import settings
from tasks.engine.engine import Engine
from tasks.engine.local_engine import LocalEngine
from tasks.evaluation.inputs import Answer, EvaluationInputs, Prompt, SamplingParams
from tasks.files import MANIFEST, sha256, with_version, write_json
from tasks.pairs import write_prompts
from tasks.tokenization import bpe

PAD, DOCUMENT, USER, ASSISTANT, END = 0, 1, 3, 4, 5
VOCAB_SIZE = 262
POLICIES = ("sft", "ppo", "dpo")
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def tokenizer() -> Any:
    """A tokenizer with one token per byte, and the special tokens."""
    return bpe.train(["plain text"], VOCAB_SIZE)


def shape() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=PAD, bos_token_id=DOCUMENT,
        eos_token_id=END, num_labels=1,
    )  # fmt: skip


def causal(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(shape()).eval()


def scalar(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForSequenceClassification(shape()).eval()


def encode(text: str) -> list[int]:
    """The token ids of a text."""
    return [int(token) for token in tokenizer()(text, add_special_tokens=False)["input_ids"]]


def encode_text(text: str) -> list[int]:
    """The token ids of a text in which special tokens are text: one token per byte."""
    return [int(tokenizer().convert_tokens_to_ids(character)) for character in text]


def stream(texts: list[str]) -> tokens.Stream:
    """Consecutive documents; the positions of each start at 0."""
    lists = [[DOCUMENT, *encode(text)] for text in texts]
    all_ids = np.concatenate([np.array(ids, np.uint16) for ids in lists])
    positions = np.concatenate([np.arange(len(ids), dtype=np.uint32) for ids in lists])
    return tokens.Stream(all_ids, positions, np.ones(len(all_ids), np.uint8))


def metadata(word: str) -> dict[str, Any]:
    return {"task": "numbers", "text": f"say {word}", "answer": word, "closing": ".", "reference": word}


def prompt_ids(text: str) -> list[int]:
    return [DOCUMENT, USER, *encode(text), END, ASSISTANT]


def write_project(data: Path) -> Path:
    """Write everything that evaluation reads, except the reports of training stages."""
    byte_tokenizer, folder = tokenizer(), data / "tokens"
    byte_tokenizer.save_pretrained(folder / "tokenizer")
    tokens.write_stream(folder / "documents" / "train", stream(["a rose is a rose is a rose", "it rains in spain"]))
    tokens.write_stream(folder / "documents" / "test", stream(["is a rose in spain", "it is", "a plain text"]))
    for split, words in {"train": ("nine", "ten"), "test": WORDS}.items():
        facts = [metadata(word) for word in words] + [
            {"text": f"what is {word}?", "reference": f"{word} is a number"} for word in words
        ]
        ids = [np.array(prompt_ids(fact["text"])) for fact in facts]
        write_prompts(folder / "prompts" / split, ids, facts, VOCAB_SIZE)
    pairs = folder / "preferences" / "test"
    sides: dict[str, Callable[[str], list[int]]] = {
        "prompt": prompt_ids,
        "chosen": lambda w: [*encode(f"{w}."), END],
        "rejected": lambda w: [*encode(w), END],
    }
    for name, make in sides.items():
        tokens.write_ragged(pairs / name, [make(word) for word in WORDS], VOCAB_SIZE)
    write_json(pairs / "reasons.json", ["style"] * 6 + ["correct"] * 2)
    for seed, name in enumerate(("pretrain", "sft", "ppo", "dpo")):
        folders.save(data / "models" / name, causal(seed), byte_tokenizer, {"stage": name})
    folders.save(data / "models" / "reward", scalar(9), byte_tokenizer, {"stage": "reward"})
    return write_comparison(data)


def write_comparison(data: Path) -> Path:
    """Write what curation and tokenization would record about these test sets."""
    folder = data / "tokens"
    sets = {name: {"examples": 3, "digest": name} for name in ("documents", "conversations", "preferences")}
    files = [path for split in folder.rglob("test") for path in split.rglob("*") if path.is_file()]
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    write_json(folder / MANIFEST, {"test": {"sets": sets, "files": digests}})
    compared_with = {name: {"examples": 5, "digest": "all", "test": about} for name, about in sets.items()}
    write_json(data / "reports" / "curation.json", with_version("report", {"compared_with": compared_with}))
    return data


def use_engine(monkeypatch: pytest.MonkeyPatch, folder: Path, workers: int) -> list[int]:
    """Let `engine: ray` be an engine of this machine. Returns the number of tasks of each stage that it runs."""
    num_tasks = list[int]()

    class Counting(LocalEngine):
        def run(self, *args: Any, **options: Any) -> Any:
            num_tasks.append(len(args[1]))
            return super().run(*args, **options)

    def make_engine(run: Path, _workers: int) -> Engine:
        return Counting(run, workers)

    monkeypatch.chdir(folder)
    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setattr(settings, "make_engine", make_engine)
    return num_tasks


class FixedAnswers(EvaluationInputs):
    """Inputs with fixed answers instead of models: `sampled` and `greedy` by model."""

    def __init__(
        self, prompts: list[dict[str, Any]], sampled: dict[str, list[str]], greedy: dict[str, list[str]]
    ) -> None:
        super().__init__(Path("unused"), SamplingParams(policies=tuple(sampled)))
        self.tokenizer = tokenizer()
        self.prompts = [Prompt([1], str(facts.get("text", "")), facts) for facts in prompts]
        self._texts = {False: sampled, True: greedy}

    def answers(self, name: str, greedy: bool) -> list[Answer]:
        return [Answer([2] * len(text), text, True) for text in self._texts[greedy][name]]
