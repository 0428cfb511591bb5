"""Model folders: the files of transformers, the tokenizer, athanor.json (the origin) and a manifest of all checksums.

`AutoModelForCausalLM.from_pretrained(folder)` (for a reward model `AutoModelForSequenceClassification`) and
`AutoTokenizer.from_pretrained(folder)` read them too. A model with an adapter is written twice: merged in the folder
itself, and as a PEFT adapter in adapter/.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks import chat_templates, peft
from tasks.causal import saving
from tasks.causal.loading import as_bad_model, attention_setting, load, load_model
from tasks.errors import BadModel
from tasks.files import MANIFEST, read_json, rerun_advice, sha256, version_problem, with_version, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ORIGIN = "athanor.json"
ADAPTER = "adapter"
LEFT_OUT = "left_out.json"  # alone in the folder of a stage that had no data

Objective = Literal["causal", "masked", "span"]  # predict the next token, masked tokens, corrupted spans
MODEL_KINDS: dict[Objective, str] = {"causal": "decoder", "masked": "encoder", "span": "encoder-decoder"}


def save(
    folder: Path, model: Any, tokenizer: Any, origin: Mapping[str, Any], dtype: "torch.dtype | None" = None
) -> None:
    """Write `model`, `tokenizer` and `origin` into `folder`, and the manifest last; the weights in `dtype` if given.

    Of a PeftModel, the adapter is written into adapter/ and the merged model into the folder. A soft prompt cannot be
    merged; then the folder contains the base model. `origin`: JSON values that say what the model was made from (stage,
    base, params). When several processes have trained the model, only the one with rank 0 writes. Raises BadModel if
    plain transformers does not load the same model from the folder.
    """
    if _rank() > 0:
        return
    _keep_deepspeed_from_looking_for_a_gpu()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on, an interrupted save leaves an incomplete model
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    trained = model
    if peft.has_adapter(model):
        model.save_pretrained(folder / ADAPTER)
        model = peft.without_adapter_files(model)
    state_end_tokens(model, tokenizer)
    _drop_trained_tokens(model, tokenizer, origin)
    saving.write_weights(model, folder, dtype)
    tokenizer.save_pretrained(folder)
    write_json(folder / ORIGIN, with_version("model", origin))
    saving.make_readable(folder)
    if (kind := _class_of_folder(folder)) is not None:
        saving.verify(folder, trained, kind, list(tokenizer.all_special_ids), dtype)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(folder / MANIFEST, {str(path.relative_to(folder)): sha256(path) for path in files})


def _class_of_folder(folder: Path) -> Any:
    """The class that loads a causal model or a reward model from `folder`; None for other models."""
    from tasks.causal.reward_class import SUFFIX, reward_class

    config = load_config(folder)
    if any(name.endswith(SUFFIX) for name in config.architectures or ()):
        return reward_class(config)
    return auto_class("causal") if objective(folder) == "causal" else None


def base_dtype(name: str | Path) -> "torch.dtype | None":
    """The precision of the weights of the checkpoint `name`, if it has 16 bits; None otherwise. Raises BadModel."""
    import torch

    halves = {str(one).removeprefix("torch."): one for one in (torch.bfloat16, torch.float16)}
    return halves.get(str(load_config(name).dtype).removeprefix("torch."))


def _keep_deepspeed_from_looking_for_a_gpu() -> None:
    """Where DeepSpeed is installed, saving imports it, and on a machine without a GPU it would search and warn."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _rank() -> int:
    from torch import distributed

    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def write_left_out(folder: Path, reason: str, base: str | Path | None) -> None:
    """State in the model folder of a stage that it was left out; later stages start from its `base`, if it has one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / LEFT_OUT, {"reason": reason, "base": None if base is None else str(base)})


def left_out(folder: Path) -> str | None:
    """Why the stage of a model folder was left out; None if it was not."""
    return str(read_json(folder / LEFT_OUT)["reason"]) if (folder / LEFT_OUT).is_file() else None


def base_of_left_out(folder: Path) -> str | None:
    """The model that a stage which was left out would have started from; None for random weights."""
    base = read_json(folder / LEFT_OUT)["base"]
    return None if base is None else str(base)


def verify(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest; return the content of athanor.json. Raises BadModel, naming the file."""
    if reason := left_out(folder):
        raise BadModel(f"{folder} contains no model, because its stage was left out: {reason}.")
    if not (folder / MANIFEST).is_file():
        raise BadModel(f"{folder} is not a complete model: {MANIFEST} is missing. Run the stage that writes it again.")
    with as_bad_model(folder):
        digests = dict(read_json(folder / MANIFEST))
        origin = dict(read_json(folder / ORIGIN))
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise BadModel(f"{folder} is not a complete model: {name} is missing. Run the stage that writes it again.")
        if sha256(path) != digest:
            raise BadModel(
                f"{path} is damaged: its sha256 differs from the one in {MANIFEST}. Delete it, and restore it with "
                "`dvc checkout`, or run the stage that writes it again."
            )
    if problem := version_problem("model", origin, folder / ORIGIN):
        raise BadModel(f"{problem} {rerun_advice(folder / ORIGIN)}")
    return origin


def load_tokenizer(name: str | Path) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a model folder, a tokenizer folder or a hub name. Raises BadModel."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, name)


def load_causal(
    name: str | Path, dtype: "torch.dtype | None" = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """Load a causal language model in eval mode, in `dtype` or else fp32, and its tokenizer.

    `name`: a folder that `save` has written (it is verified first), any other folder with a checkpoint, or a hub name.
    Raises BadModel.
    """
    model = _load_model(name, dtype, "causal")
    with as_bad_model(name):
        return peft.attach_soft_prompt(model, Path(name) / ADAPTER), load_tokenizer(name)


def load_pretrained(name: str | Path, objective: Objective) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """Load a model that was pretrained for `objective`, in eval mode, and its tokenizer. Raises BadModel."""
    return _load_model(name, None, objective), load_tokenizer(name)


def objective(name: str | Path) -> Objective:
    """The objective that the checkpoint `name` was pretrained for, read from its config. Raises BadModel."""
    config = load_config(name)
    if getattr(config, "is_encoder_decoder", False):
        return "span"
    with as_bad_model(name):  # `architectures` may be anything in a damaged config
        return "masked" if any("MaskedLM" in kind for kind in config.architectures or ()) else "causal"


def is_reward(name: str | Path) -> bool:
    """Whether `name` is a folder with a reward model, as the stage reward saves it. Raises BadModel."""
    origin = Path(name) / ORIGIN
    return origin.is_file() and read_json(origin).get("kind", read_json(origin).get("stage")) == "reward"


def load_config(name: str | Path) -> Any:
    """Load the config of a checkpoint. Raises BadModel."""
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
    """Load a reward model (sequence classification with one label) in eval mode and its tokenizer. Raises BadModel."""
    import torch

    from tasks.causal.reward_class import reward_class

    _verify_if_own(name)
    config = load_config(name)
    kind = reward_class(config)
    settings: dict[str, Any] = {"dtype": dtype or torch.float32, "num_labels": 1, **attention_setting(kind, config)}
    return load_model(kind, str(name), **settings), load_tokenizer(name)


def _load_model(name: str | Path, dtype: "torch.dtype | None", expected: Objective) -> Any:
    import torch

    _verify_if_own(name)
    actual = objective(name)
    if actual != expected:
        raise BadModel(
            f"{name} is of the kind {MODEL_KINDS[actual]} (objective {actual}), but this step needs the kind "
            f"{MODEL_KINDS[expected]} (objective {expected}). Name another model, or change pretrain.objective."
        )
    kind, config = auto_class(actual), load_config(name)
    settings: dict[str, Any] = {"dtype": dtype or torch.float32, **attention_setting(kind, config)}
    return load_model(kind, name, extra_weights=actual == "masked", trust_remote_code=False, **settings)


def _verify_if_own(name: str | Path) -> None:
    if (Path(name) / ORIGIN).is_file():
        verify(Path(name))


def _load(auto_type: Any, name: str | Path) -> Any:
    # A Path is a folder of this project: without this check, transformers would look for the missing folder on the hub.
    if isinstance(name, Path) and not name.is_dir():
        raise BadModel(f"there is no model in {name}. Run the stage that writes it, or give another path.")
    return load(auto_type, name, trust_remote_code=False)


def fit_vocabulary(model: Any, model_tokenizer: Any, tokenizer: Any, name: str | Path) -> None:
    """Give `model`, called `name` and trained with `model_tokenizer`, an embedding for every id of `tokenizer`.

    `tokenizer` must be `model_tokenizer` or extend it. The embedding of a new token is the mean of the embeddings of
    the tokens that it was spelled with before; that of a new special token is the mean of all embeddings.
    Raises BadModel if an id means different tokens in the two tokenizers.
    """
    vocabulary, model_vocabulary = tokenizer.get_vocab(), model_tokenizer.get_vocab()
    num_different = sum(vocabulary.get(token) != index for token, index in model_vocabulary.items())
    if num_different:
        raise BadModel(
            f"the tokenizer in data/tokens does not fit {name}: {num_different} of its {len(model_vocabulary)} tokens "
            f"are missing or have other ids. Set tokenization.tokenizer to {name}, or choose a base trained with this "
            "tokenizer."
        )
    size, num_rows = max(vocabulary.values()) + 1, model.get_input_embeddings().weight.shape[0]
    # Some checkpoints (Qwen's) have more embeddings than tokens: the spare ones are used before the table grows.
    if size > num_rows:
        model.resize_token_embeddings(size, mean_resizing=False)
    # The tokenizer of a checkpoint may have tokens that its model lacks.
    known = {token: index for token, index in model_vocabulary.items() if index < num_rows}
    _initialize_new_embeddings(model, known, model_tokenizer, tokenizer)
    if new := set(vocabulary.values()) - set(known.values()):
        # In the config, so that a later stage knows them, too: a pretraining does not train the tokens of roles.
        model.config.new_token_ids = sorted({*new, *new_token_ids(model)})
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, key, getattr(tokenizer, key))
        if getattr(model, "generation_config", None) is not None and key != "eos_token_id":  # encoders have none
            setattr(model.generation_config, key, getattr(tokenizer, key))
    state_end_tokens(model, tokenizer)


def new_token_ids(model: Any) -> list[int]:
    """The tokens that were added to the vocabulary of a base, and whose embeddings no stage has trained yet."""
    return list(getattr(model.config, "new_token_ids", None) or [])


def _drop_trained_tokens(model: Any, tokenizer: Any, origin: Mapping[str, Any]) -> None:
    """Leave in the config only the new tokens that the stage has not trained: special ones, where it read documents."""
    if not new_token_ids(model) or not (origin.get("params") or {}).get("steps", 1):
        return
    special = set(tokenizer.all_special_ids) if origin.get("kind") == "pretrain" else set()
    model.config.new_token_ids = [index for index in new_token_ids(model) if index in special]


def state_end_tokens(model: Any, tokenizer: Any) -> None:
    """State in the generation config of `model` which tokens end an answer, so that any library stops there.

    These are the end token of `tokenizer`, those that the model's checkpoint states, and the one after an answer in the
    chat template.
    """
    settings = getattr(model, "generation_config", None)
    if settings is not None:  # encoders and reward models have none
        ids = chat_templates.end_ids(tokenizer, model)
        settings.eos_token_id = ids[0] if len(ids) == 1 else list(ids)


def _initialize_new_embeddings(
    model: Any, model_vocabulary: Mapping[str, int], model_tokenizer: Any, tokenizer: Any
) -> None:
    import torch

    vocabulary = tokenizer.get_vocab()
    new_tokens = {token: index for token, index in sorted(vocabulary.items()) if token not in model_vocabulary}
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    # By id: the input and output embeddings are one table when they are tied.
    tables = {id(layer.weight): layer.weight for layer in layers if layer is not None}
    with torch.no_grad():
        for table in tables.values() if new_tokens else ():
            mean_of_all = table[sorted(model_vocabulary.values())].mean(0)
            for token, index in new_tokens.items():
                pieces = _previous_ids(token, model_tokenizer, tokenizer)
                pieces = [piece for piece in pieces if piece != index]  # of a token that only the model lacked
                table[index] = table[pieces].mean(0) if pieces else mean_of_all


def _previous_ids(token: str, model_tokenizer: Any, tokenizer: Any) -> list[int]:
    """The ids with which `model_tokenizer` spells a new token; empty for a special token."""
    if token in tokenizer.all_special_tokens:
        return []
    if token in tokenizer.get_added_vocab():
        return list(model_tokenizer(token, add_special_tokens=False).input_ids)
    # A token of the BPE vocabulary is stored in the byte alphabet, so the BPE model itself must split it.
    return [piece.id for piece in model_tokenizer.backend_tokenizer.model.tokenize(token)]
