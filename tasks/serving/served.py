"""A model that is served: loaded, checked, and with an engine."""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import models
from tasks.causal import methods, remembered
from tasks.causal.backbone import context_length
from tasks.causal.self_check import AS_LOADED, Needs
from tasks.chat_layout import ChatMessages, Refused
from tasks.chat_templates import ChatTemplate, end_ids
from tasks.errors import BadInput
from tasks.files import MANIFEST
from tasks.serving import forward
from tasks.serving.engine import Engine
from tasks.serving.params import EngineParams
from tasks.serving.text import Decoder


@dataclass(eq=False, slots=True)
class ServedModel:
    """name: as clients know it; version: a hash of its files; notes: what is slower than usual, and why."""

    name: str
    folder: str
    version: str
    model: Any
    tokenizer: Any
    decoder: Decoder
    engine: Engine
    end_ids: frozenset[int]
    notes: tuple[str, ...]
    created: int = field(default_factory=lambda: int(time.time()))
    _encoding: threading.Lock = field(default_factory=threading.Lock)  # a tokenizer encodes for one thread at a time

    @property
    def context(self) -> int:
        """The number of tokens of a prompt with its answer."""
        return min(self.engine.context - self.engine.num_virtual, self.engine.max_positions)

    @property
    def vocab_size(self) -> int:
        """The number of logits of the model."""
        return int(self.engine.vocab_size)

    @property
    def can_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.tokenizer.chat_template is not None

    def encode(self, text: str) -> list[int]:
        """The ids of a text without template, as the tokenizer begins texts."""
        with self._encoding:
            return [int(index) for index in self.tokenizer(text)["input_ids"]]

    def encode_chat(self, messages: ChatMessages) -> list[int]:
        """The ids of messages and of the header of the answer. Raises BadInput if the template refuses them."""
        with self._encoding:
            (prompt,) = ChatTemplate.of(self.tokenizer).encode_prompts([messages])
        if isinstance(prompt, Refused):
            raise BadInput(f"the chat template of the model refuses these messages: {prompt}")
        return [int(token) for token in prompt.ids]


def load(
    name: str,
    folder: str | Path,
    params: EngineParams,
    on_round: Callable[[], object] | None = None,
    dtype: str = "float32",
) -> ServedModel:
    """Load the model in `folder` and start its engine. Raises BadModel."""
    import torch

    model, tokenizer = models.load_causal(folder, getattr(torch, dtype))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    needs = Needs(generation="auto", max_length=context_length(model), attentions=AS_LOADED)
    notes = list(remembered.prepare(model, tokenizer, needs, keep_attention=True))
    is_batched = params.is_batched and methods.of(model).generation == "cached"
    vocab_size = int(model.get_input_embeddings().weight.shape[0])
    if is_batched and (problem := forward.problem(model, vocab_size)) is not None:
        is_batched = False
        notes.append(
            f"the state of this model cannot be kept in rows, so that requests are answered one by one ({problem})"
        )
    engine = Engine(model, params.model_copy(update={"is_batched": is_batched}), tokenizer.pad_token_id or 0, on_round)
    ends = frozenset(end_ids(tokenizer, model))
    return ServedModel(
        name, str(folder), version(folder), model, tokenizer, Decoder(tokenizer), engine, ends, tuple(notes)
    )


def version(folder: str | Path) -> str:
    """A short hash of a model folder, from its manifest or else its files; the name of a hub model."""
    path = Path(folder)
    if (path / MANIFEST).is_file():
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()[:12]
    if not path.is_dir():
        return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    about = "\n".join(f"{file.relative_to(path)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    return hashlib.sha256(about.encode()).hexdigest()[:12]
