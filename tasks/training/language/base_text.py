"""Text that a trained base writes itself, and what it would say next at each place of it: the teacher of a replay.

A student that predicts sampled tokens learns their noise, too, and needs many of them. The probabilities of the base at
the same places have no noise (distillation, arXiv:1503.02531; "Learning without Forgetting", arXiv:1606.09282). Only
those of the most probable tokens are kept, so that the base need not stay in memory.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.answers import evaluating
from tasks.causal import attention, heads, remembered
from tasks.causal.backbone import context_length, last_hidden
from tasks.causal.row_loss import Teacher
from tasks.causal.self_check import Needs
from tasks.errors import BadModel
from tasks.generation import generate
from tasks.progress import Progress
from tasks.tokens import Stream, ids_dtype
from tasks.training.language.rows import PackedRows
from tasks.training.parallel import processes

MIN_SAMPLES = 16  # that are drawn at once
NUM_HASHED = 64  # values of each weight by which a base is recognized
MAX_PROBABLE = 128  # tokens whose probabilities are kept; the others have one probability together


@dataclass(frozen=True)
class Base:
    """A trained model before the first step, the tokenizer of its checkpoint, and the device on which it is used."""

    model: Any
    tokenizer: Any
    device: torch.device


@dataclass(frozen=True)
class BaseText:
    """Text of a base: the rows that are trained on, and those that are held out.

    tokens, log_probs [rows of train, length, k]: the most probable next tokens in these rows, with their
    log-probabilities.
    """

    train: Stream
    held_out: Stream
    tokens: npt.NDArray[np.uint32]
    log_probs: npt.NDArray[np.float32]

    def teacher(self, rows: Sequence[int], device: torch.device) -> Teacher | None:
        """The teacher of a batch, in which the number -1 - i is row i of `train`; None if there is none."""
        numbers = [-1 - row for row in rows if row < 0]
        if not numbers:
            return None
        is_taught = torch.tensor([row < 0 for row in rows], device=device)
        tokens = torch.from_numpy(self.tokens[numbers].astype(np.int64)).to(device)
        return Teacher(is_taught, tokens, torch.from_numpy(self.log_probs[numbers]).to(device))


def stored_text(base: Base, num_rows: tuple[int, int], length: int, seed: int, path: Path, section: str) -> BaseText:
    """Text of `base`, from the file `path` if it has written that, so that a resumed run reads the same one.

    num_rows: of rows to train on and held out, of `length` tokens each. Raises BadModel if the base writes no text.
    """
    origin = _origin(base.model, num_rows, length, seed)
    if processes.rank() == 0 and not _is_from(path, origin):
        with processes.on_device(base.model, base.device):
            text = _write_text(base, num_rows, length, seed, section)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **text, origin=origin)
        temporary.replace(path)
    processes.any_rank(False)  # the others wait for the file
    with np.load(path) as stored:
        ids, positions, tokens, log_probs = (stored[key] for key in ("ids", "positions", "tokens", "log_probs"))
    return BaseText(*_parts(ids, positions, num_rows[0] * length), tokens, log_probs)


def _origin(model: Any, *numbers: object) -> str:
    """A hash of the beginning of each weight and of `numbers`: the file of a run with another base is not read."""
    digest = hashlib.sha256(repr(numbers).encode())
    for name, weight in model.named_parameters():
        part = weight.detach().flatten()[:NUM_HASHED].cpu().view(torch.uint8)
        digest.update(f"{name} {tuple(weight.shape)}".encode() + part.numpy().tobytes())
    return digest.hexdigest()


def _is_from(path: Path, origin: str) -> bool:
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return str(stored["origin"]) == origin and "log_probs" in stored
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        print(f"{path} cannot be read and is drawn again: {error}", file=sys.stderr, flush=True)
        return False


def _write_text(base: Base, num_rows: tuple[int, int], length: int, seed: int, section: str) -> dict[str, Any]:
    num_tokens = sum(num_rows) * length + 1
    stream = sample_documents(base.model, base.tokenizer, num_tokens, length, seed, section)
    ids, positions = (column[:num_tokens] for column in (stream.ids, stream.positions))
    train = _parts(ids, positions, num_rows[0] * length)[0]
    tokens, log_probs = _most_probable(base.model, PackedRows(train, length, 1, 1, 0, 0))
    return {"ids": ids, "positions": positions, "tokens": tokens, "log_probs": log_probs}


def _parts(
    ids: npt.NDArray[np.integer[Any]], positions: npt.NDArray[np.integer[Any]], size: int
) -> tuple[Stream, Stream]:
    """The first `size` tokens, with one more as the target of the last, and the other ones."""
    dtype = ids_dtype(int(ids.max()) + 1)
    first, last = (
        Stream(ids[part].astype(dtype), positions[part], np.ones(len(ids[part]), np.uint8))
        for part in (slice(0, size + 1), slice(size, None))
    )
    return first, last


@torch.no_grad()
def _most_probable(model: Any, rows: PackedRows) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """The most probable next tokens in `rows` and their log-probabilities, [rows, length, k] each."""
    device = heads.device(model)
    parts: list[tuple[Tensor, Tensor]] = []
    with attention.packed(model), evaluating(model):
        for batch in rows.once():
            hidden = last_hidden(model, batch.ids.to(device), batch.positions.to(device))
            log_probs = heads.logits(model, hidden).float().log_softmax(-1)
            values, tokens = log_probs.topk(min(MAX_PROBABLE, log_probs.shape[-1]))
            parts.append((tokens.cpu(), values.cpu()))
    all_tokens, all_values = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return all_tokens.astype(np.uint32), all_values


def sample_documents(model: Any, tokenizer: Any, num_tokens: int, length: int, seed: int, section: str) -> Stream:
    """Documents of at most `length` tokens that `model` draws from its own distribution, at least `num_tokens` in all.

    tokenizer: that of the model's checkpoint. A text ends before the first token that is special or not of this
    tokenizer, other than its end token. Raises BadModel if the model writes nothing else.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise BadModel(
            f"{section}.replay needs samples of the base, but its tokenizer has neither a beginning nor an end token. "
            f"Set {section}.replay.text: documents, or replay: null."
        )
    remembered.prepare(model, tokenizer, Needs("auto", "auto", generation="auto", max_length=length))
    end = tokenizer.eos_token_id
    forbidden = set(tokenizer.all_special_ids) - {end}
    size, context = len(tokenizer), min(length, context_length(model))
    generator = torch.Generator().manual_seed(seed)
    texts: list[list[int]] = []
    count = 0
    with attention.packed(model), Progress(f"{section}, text of the base", num_tokens, "tokens") as progress:
        while count < num_tokens:
            num_samples = max(MIN_SAMPLES, -(-(num_tokens - count) // length))
            generated = generate(
                model, [[start]] * num_samples, max_new_tokens=context - 1,
                end_ids=[] if end is None else [end], pad_id=tokenizer.pad_token_id or 0, generator=generator,
            )  # fmt: skip
            before = count
            for answer in generated.answers:
                bad = (place for place, one in enumerate(answer) if one in forbidden or one >= size)
                texts.append([start, *answer[: next(bad, len(answer))]])
                count += len(texts[-1])
            if count - before < 3 * num_samples:
                raise BadModel(
                    f"{section}.replay needs samples of the base, but the base writes nothing after its first token. "
                    f"Set {section}.replay.text: documents, or replay: null."
                )
            progress.advance(count - before)
    ids = np.concatenate([np.asarray(text, np.uint32) for text in texts])
    positions = np.concatenate([np.arange(len(text), dtype=np.uint32) for text in texts])
    return Stream(ids, positions, np.ones(len(ids), np.uint8))
