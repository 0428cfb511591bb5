"""Load what transformers and peft can load, so that a folder that is damaged or does not fit is one clear error.

No code of a folder is ever executed (trust_remote_code=False), and no library asks for permission on standard input.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import BadModel, DamagedJson, UserError

NUM_NAMES = 5  # of weights in a message
ADAPTER_CONFIG = "adapter_config.json"
MERGE = " It is an adapter of peft: merge it with its base (`merge_and_unload`), save both, and name that folder."


def load(kind: Any, name: str | Path, **settings: Any) -> Any:
    """Load a config or a tokenizer by the class `kind` of transformers. Raises BadModel."""
    with as_bad_model(name), without_progress_bars():
        return kind.from_pretrained(str(name), **settings)


def load_model(kind: Any, name: str | Path, extra_weights: bool = False, **settings: Any) -> Any:
    """Load a model in eval mode. Raises BadModel, also for weights that are missing or that the model does not have.

    Without this check, missing weights would be random numbers. `extra_weights` are allowed for an encoder, whose
    checkpoint may contain heads for other tasks.
    """
    if (Path(name) / ADAPTER_CONFIG).is_file():  # transformers would add the adapter, and save it without the base
        raise BadModel(f"{name} cannot be loaded as a model.{MERGE}")
    model, info = load(kind, name, output_loading_info=True, **settings)
    problems = [("missing in the folder, so that they would be random numbers", info["missing_keys"])]
    problems += [("of another shape than in the config", [key for key, *_ in info.get("mismatched_keys", ())])]
    if not extra_weights:
        problems.append(("unknown to the model, so that they would be ignored", info["unexpected_keys"]))
    sentences = [f"{_names(keys)} {what}" for what, keys in problems if keys]
    if sentences:
        raise BadModel(
            f"the weights in {name} do not fit {type(model).__name__}: {'; '.join(sentences)}. Name a folder with a "
            "model of this kind (a reward model is not a causal model), or restore the folder."
        )
    return model.eval()


def _names(keys: Any) -> str:
    keys = sorted(map(str, keys))
    more = f" and {len(keys) - NUM_NAMES} more" if len(keys) > NUM_NAMES else ""
    return f"{', '.join(keys[:NUM_NAMES])}{more} {'is' if len(keys) == 1 else 'are'}"


def attention_setting(kind: Any, config: Any) -> dict[str, str]:
    """The setting for eager attention, for models that cannot change theirs later; {} for all others.

    Of such families, the code for other kinds of attention is rarely used and not always the same (Falcon with ALiBi).
    """
    mapping = getattr(kind, "_model_mapping", {type(config): kind})
    model_class = mapping[type(config)] if type(config) in mapping else None  # noqa: SIM401 - not a dict
    can_change = getattr(model_class, "_can_set_attn_implementation", lambda: True)
    return {} if can_change() else {"attn_implementation": "eager"}


@contextmanager
def as_bad_model(name: str | Path) -> Iterator[None]:
    """Turn the errors of the libraries that read the files of `name` into BadModel.

    A truncated file is a SafetensorError, a bare Exception of `tokenizers`, a JSONDecodeError or something else.
    """
    try:
        yield
    except DamagedJson as error:
        raise BadModel(f"{name} cannot be loaded as a model or tokenizer: {error}") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "trust_remote_code" in str(error):
            cause = "its folder contains code of its own, which is never executed"
        advice = " The folder may be damaged: restore it, or run the stage that writes it again."
        if (Path(name) / ADAPTER_CONFIG).is_file():
            advice = MERGE
        if not Path(name).is_dir():
            advice = f" There is no folder {name} either: name a folder or a hub model."
        raise BadModel(f"{name} cannot be loaded as a model or tokenizer: {cause.rstrip('.')}.{advice}") from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers, which would interrupt the progress line of the stage."""
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()
