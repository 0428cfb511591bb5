"""Model folders: Hugging Face files, the tokenizer, where the model comes from, and a manifest that proves it whole.

Plain `AutoModelForCausalLM.from_pretrained(folder)` (for a reward model `AutoModelForSequenceClassification`) and
`AutoTokenizer.from_pretrained(folder)` read them too. An adapter is saved beside, in adapter/, and merged in.
"""

import copy
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import BadModel
from tasks.files import MANIFEST, read_json, sha256, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ORIGIN = "athanor.json"
ADAPTER = "adapter"
QUANTISED = ("Int8Params", "Params4bit")  # what bitsandbytes keeps weights in

Objective = Literal["causal", "masked", "span"]  # the next token, hidden tokens, cut-out spans
KINDS: dict[Objective, str] = {"causal": "decoder", "masked": "encoder", "span": "encoder-decoder"}


def save(folder: Path, model: Any, tokenizer: Any, origin: Mapping[str, Any]) -> None:
    """Write `model` (a peft model: its adapter, and the whole merged), `tokenizer` and `origin`; the manifest last.

    Learned prompts cannot be merged: beside their adapter stands the model that they are put before.

    `origin`: JSON values saying what the model was made from: stage, base, params. Of several processes that have
    trained it together the first alone writes.
    """
    if _is_not_first():
        return
    _spare_deepspeed_the_search()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    if hasattr(model, "get_base_model"):
        model.save_pretrained(folder / ADAPTER)
        model = _below_prompts(model) if model.active_peft_config.is_prompt_learning else merged(model)
    with _no_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / ORIGIN, dict(origin))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(folder / MANIFEST, {str(path.relative_to(folder)): sha256(path) for path in files})


def _spare_deepspeed_the_search() -> None:
    """Where DeepSpeed is installed, saving imports it; it would look for a GPU and warn that there is none."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _is_not_first() -> bool:
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0


def merged(model: Any) -> Any:
    """A peft model as a plain one with the adapter's weights added in; the given model is left as it is.

    A base in 8 or 4 bits is turned into fp32 weights first, those that its bits stand for.
    """
    if not _is_quantized(model):
        return copy.deepcopy(model).merge_and_unload()
    import peft

    config, learned = copy.deepcopy(model.active_peft_config), peft.get_peft_model_state_dict(model)
    copied = copy.deepcopy(model)
    _is_plain(copied.get_base_model())
    plain = _dequantized(copied.unload())
    config.fan_in_fan_out = any(type(module).__name__ == "Conv1D" for module in plain.modules())
    with _without_peft_warnings():
        again = peft.get_peft_model(plain, config)
    peft.set_peft_model_state_dict(again, learned)
    return again.merge_and_unload()


def _below_prompts(model: Any) -> Any:
    base = model.get_base_model()
    return _dequantized(copy.deepcopy(base)) if _is_quantized(base) else base


def _is_quantized(model: Any) -> bool:
    return any(type(parameter).__name__ in QUANTISED for parameter in model.parameters())


def _dequantized(model: Any) -> Any:
    """`model` with fp32 linear maps in place of those of bitsandbytes."""
    import torch
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if type(getattr(module, "weight", None)).__name__ not in QUANTISED:
            continue
        weight, bias = dequantize_module_weight(module).float(), module.bias
        made: Any = (
            Conv1D(*weight.shape) if module.was_turned else torch.nn.Linear(weight.shape[1], weight.shape[0], False)
        )
        made.weight.data, made.bias = weight.T.contiguous() if module.was_turned else weight, bias
        model.set_submodule(name, made)
    return _is_plain(model)


def _is_plain(model: Any) -> Any:
    model.is_loaded_in_8bit = model.is_loaded_in_4bit = False  # what peft looks at
    return model


def verify(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest; what athanor.json says. Raises BadModel, naming the file."""
    if not (folder / MANIFEST).is_file():
        raise BadModel(f"{folder} is not a complete model: {MANIFEST} is missing. Run the stage that writes it again.")
    for name, digest in read_json(folder / MANIFEST).items():
        path = folder / name
        if not path.is_file():
            raise BadModel(f"{folder} is not a complete model: {name} is missing. Run the stage that writes it again.")
        if sha256(path) != digest:
            raise BadModel(f"{path} is damaged: its sha256 is not the one in {MANIFEST}. Restore it (dvc checkout).")
    return dict(read_json(folder / ORIGIN))


def load_tokenizer(name: str | Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a model folder, a tokenizer folder or a hub name. Raises BadModel."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, name)


def load_causal(
    name: str | Path, dtype: "torch.dtype | None" = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """A causal language model in eval mode, fp32 unless `dtype` says otherwise, and its tokenizer.

    `name`: one of our folders (verified first), any other folder with a checkpoint, or a hub name. Raises BadModel.
    """
    model = _load_model(name, dtype, "causal")
    return _with_prompts(model, Path(name) / ADAPTER), load_tokenizer(name)


def load_pretrained(name: str | Path, wanted: Objective) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """A model that was pretrained for the objective `wanted`, in eval mode, and its tokenizer. Raises BadModel."""
    return _load_model(name, None, wanted), load_tokenizer(name)


def objective(name: str | Path) -> Objective:
    """What the checkpoint `name` was pretrained for, by its config. Raises BadModel."""
    config = load_config(name)
    if getattr(config, "is_encoder_decoder", False):
        return "span"
    return "masked" if any("MaskedLM" in kind for kind in config.architectures or ()) else "causal"


def load_config(name: str | Path) -> Any:
    """The config of a checkpoint. Raises BadModel."""
    from transformers import AutoConfig

    return _load(AutoConfig, name)


def auto_class(objective: Objective) -> Any:
    """The class of transformers that builds and loads models for `objective`."""
    import transformers

    names = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "span": "AutoModelForSeq2SeqLM"}
    return getattr(transformers, names[objective])


def load_reward(
    name: str | Path, dtype: "torch.dtype | None" = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """A reward model (sequence classification with one number) in eval mode and its tokenizer. Raises BadModel."""
    import torch
    from transformers import AutoModelForSequenceClassification

    _verify_own(name)
    settings = {"dtype": dtype or torch.float32, "num_labels": 1}
    return _load(AutoModelForSequenceClassification, name, **settings).eval(), load_tokenizer(name)


def _with_prompts(model: Any, adapter: Path) -> Any:
    """`model` behind the learned prompts of `adapter`, if it holds such; other adapters are merged in already."""
    if not adapter.is_dir():
        return model
    from peft import PeftConfig, PeftModel

    with _without_peft_warnings():
        prompts = PeftConfig.from_pretrained(str(adapter)).is_prompt_learning
        return PeftModel.from_pretrained(model, str(adapter)).eval() if prompts else model


@contextmanager
def _without_peft_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def _load_model(name: str | Path, dtype: "torch.dtype | None", wanted: Objective) -> Any:
    import torch

    _verify_own(name)
    found = objective(name)
    if found != wanted:
        raise BadModel(
            f"{name} is of the kind {KINDS[found]} (objective {found}), and what is asked of it here needs the kind "
            f"{KINDS[wanted]} (objective {wanted}): name another model, or set pretrain.objective."
        )
    return _load(auto_class(found), name, dtype=dtype or torch.float32).eval()


def _verify_own(name: str | Path) -> None:
    if (Path(name) / ORIGIN).is_file():
        verify(Path(name))


def _load(kind: Any, name: str | Path, **settings: Any) -> Any:
    if isinstance(name, Path) and not name.is_dir():
        raise BadModel(f"there is no model in {name}. Run the stage that writes it, or give another path.")
    try:
        with _no_bars():
            return kind.from_pretrained(str(name), **settings)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        mend = "" if Path(name).is_dir() else f" There is no folder {name} either: name one, or a model of the hub."
        raise BadModel(f"{name} cannot be loaded as a model or tokenizer: {said}{mend}") from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which would come between ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def fit_vocabulary(model: Any, own: Any, tokenizer: Any, name: str | Path) -> None:
    """Give `model`, whose tokenizer is `own`, a row for every id of `tokenizer`, which must be `own` or extend it.

    The row of a new token begins as the mean of those of its pieces, a special token's as the mean of all.

    Raises BadModel where ids of the two mean different tokens.
    """
    ours, theirs = tokenizer.get_vocab(), own.get_vocab()
    moved = sum(ours.get(token) != index for token, index in theirs.items())
    if moved:
        raise BadModel(
            f"the tokenizer in data/tokens does not fit {name}: {moved} of its {len(theirs)} tokens are missing or "
            f"have other ids. Set tokenization.tokenizer to {name}, or choose a base trained with this tokenizer."
        )
    size = max(ours.values()) + 1
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    _begin_new_rows(model, own, tokenizer)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, key, getattr(tokenizer, key))
        if getattr(model, "generation_config", None) is not None:  # encoders have none
            setattr(model.generation_config, key, getattr(tokenizer, key))


def _begin_new_rows(model: Any, own: Any, tokenizer: Any) -> None:
    import torch

    theirs, ours = own.get_vocab(), tokenizer.get_vocab()
    new = {token: index for token, index in sorted(ours.items()) if token not in theirs}
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    tables = {id(layer.weight): layer.weight for layer in layers if layer is not None}
    with torch.no_grad():
        for table in tables.values() if new else ():
            everyone = table[sorted(theirs.values())].mean(0)
            for token, index in new.items():
                pieces = _pieces(token, own, tokenizer)
                table[index] = table[pieces].mean(0) if pieces else everyone


def _pieces(token: str, own: Any, tokenizer: Any) -> list[int]:
    """The ids by which `own` spells a new token; none for a special one."""
    if token in tokenizer.all_special_tokens:
        return []
    if token in tokenizer.get_added_vocab():
        return list(own(token, add_special_tokens=False).input_ids)
    return [piece.id for piece in own.backend_tokenizer.model.tokenize(token)]
