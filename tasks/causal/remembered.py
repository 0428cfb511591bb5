"""Run the self-check of a model and remember it: for the same config and code, its result is the same."""

import hashlib
import importlib.metadata
import json
import os
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from tasks import peft
from tasks.causal import attention, methods, self_check
from tasks.causal.methods import Methods
from tasks.causal.self_check import Needs, Result
from tasks.files import read_json, write_json

FOLDER = Path(".run/self_checks")
PACKAGES = ("torch", "transformers", "peft", "tokenizers")
# The files that decide how a model is run, besides this folder.
CODE = ("answers.py", "generation.py", "peft.py")


def prepare(model: Any, tokenizer: Any, needs: Needs, keep_attention: bool = False) -> list[str]:
    """Choose the methods of `model` by the self-check, or as it was remembered. Returns notes for the report.

    keep_attention: also use the chosen attention from now on; the training stages do that by `attention.packed`.
    Raises BadModel if the model does not give its own numbers by any method that `needs` allows.
    """
    base = peft.base_model(model)
    path = FOLDER / f"{fingerprint(model, tokenizer, needs)}.json"
    if path.is_file():
        stored = read_json(path)
        result = Result(Methods(**stored["methods"]), tuple(stored["notes"]))
    else:
        result = self_check.measure(model, needs, tokenizer.all_special_ids, tokenizer.pad_token_id or 0)
        # Processes that train together write at the same time, so each has a temporary file of its own.
        temporary = path.with_suffix(f".{os.getpid()}.json")
        write_json(temporary, {"methods": asdict(result.methods), "notes": list(result.notes)})
        temporary.replace(path)
    methods.choose(model, result.methods)
    if keep_attention:
        attention.set_implementation(base, result.methods.attention)
    notes = [f"self-check: {note}" for note in result.notes]
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    return notes


def fingerprint(model: Any, tokenizer: Any, needs: Needs) -> str:
    """A hash of everything that the result depends on, except the values of the weights."""
    base = peft.base_model(model)
    config = {key: value for key, value in base.config.to_dict().items() if key != "_name_or_path"}
    adapters = {name: str(one.to_dict()) for name, one in getattr(model, "peft_config", {}).items()}
    parameter = next(iter(model.parameters()))
    weights = sorted({f"{type(p).__name__} {p.dtype}" for p in model.parameters()})
    content = {
        "class": type(base).__qualname__, "config": config, "adapters": adapters, "weights": weights,
        "device": parameter.device.type, "needs": asdict(needs), "special": sorted(tokenizer.all_special_ids),
        "attention": base.config._attn_implementation, "code": _code(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("*.py")), *(folder.parent / name for name in CODE)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
