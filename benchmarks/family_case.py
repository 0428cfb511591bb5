"""One family of `benchmarks.families`: its base folder, its documents, and the oracle."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.family_configs import FAMILIES, VOCAB_SIZE

LENGTHS = (9, 30, 5, 18, 28, 11)  # of the documents; the windows of the configurations have 6 tokens
ROW_LENGTH = 64
PAD, END = 0, 2


class Case:
    """One family: a base folder that plain transformers has written, documents, and the oracle."""

    def __init__(self, name: str, folder: Path) -> None:
        import torch
        import transformers

        self.name, self.folder, self.notes = name, folder, set[str]()
        kind, settings = FAMILIES[name]
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**settings)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms at their initial values would hide errors
                parameter += 0.05 * torch.randn_like(parameter)
        model.tie_weights()
        model.save_pretrained(folder / "base")
        tokenizer().save_pretrained(folder / "base")
        generator = np.random.default_rng(0)
        self.documents = [generator.integers(4, VOCAB_SIZE, length).tolist() for length in LENGTHS]
        self.answers = [generator.integers(4, VOCAB_SIZE, length).tolist() for length in (9, 14)]

    def ours(self, **needs: Any) -> Any:
        """The base as a stage loads and checks it, in eval mode."""
        from tasks import models

        return self.checked(models.load_causal(self.folder / "base")[0], **needs)

    def checked(self, model: Any, keep_attention: bool = False, **needs: Any) -> Any:
        """`model` after its self-check."""
        from tasks.causal import remembered
        from tasks.causal.self_check import Needs

        remembered.FOLDER = self.folder / "self_checks"
        needs = {"max_length": ROW_LENGTH, **needs}
        notes = remembered.prepare(model, tokenizer(), Needs(**needs), keep_attention)
        self.notes |= {note.split(" because ")[0].removeprefix("self-check: ") for note in notes}
        return model

    def oracle(self, folder: str = "base") -> Any:
        """The model of a folder as plain transformers loads it, with eager attention."""
        import torch
        from transformers import AutoModelForCausalLM

        path = self.folder / folder
        return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()

    def log_probs(self, ids: Sequence[int], model: Any = None) -> Any:
        """log p of every token of a document but the first, by the model's own forward on this document alone."""
        import torch

        # A new model for each document: dynamic rotary positions remember the longest text that they have seen.
        model = model or self.oracle()
        model.config.use_cache = False  # RWKV changes its state in place, which gradients do not allow
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].float()
        return logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

    def rows(self) -> Any:
        """The documents as packed rows of a stream; the second row is padded."""
        from tasks.tokens import Stream
        from tasks.training.language.rows import PackedRows

        ids = np.concatenate([np.array(document) for document in self.documents])
        positions = np.concatenate([np.arange(len(document)) for document in self.documents])
        stream = Stream(ids.astype(np.uint16), positions.astype(np.uint32), np.ones(len(ids), np.uint8))
        return PackedRows(stream, ROW_LENGTH, 2, 2, 0, PAD)

    def pieces(self) -> list[list[int]]:
        """The documents as the rows divide them: the tokens that the model sees together."""
        ids = [token for document in self.documents for token in document]
        starts = np.cumsum([0, *LENGTHS])
        borders = sorted({*starts.tolist(), *range(0, len(ids), ROW_LENGTH)})
        pieces = []
        for start, end in pairwise(borders):
            # The last input of a row has a target, the first token of the next row, if that continues the document.
            pieces.append(ids[start : end + 1] if end % ROW_LENGTH == 0 and end not in starts else ids[start:end])
        return pieces


def tokenizer() -> Any:
    """A tokenizer with VOCAB_SIZE tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, VOCAB_SIZE))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
