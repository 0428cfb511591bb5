"""A model as one GGUF file, the format of llama.cpp and Ollama: metadata, tokenizer, chat template and tensors."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.errors import BadInput
from tasks.export import architectures
from tasks.export.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["F32", "F16", "BF16", "Q8_0"]
Array = npt.NDArray[np.float32]
_BLOCK = 32  # numbers of a row that Q8_0 stores with one scale


def write(path: Path, model: Any, vocabulary: Vocabulary, name: str, precision: Precision) -> int:
    """Write `model` into the GGUF file `path`, which is complete or absent, and return its number of tensors.

    The vectors (norms, biases) are stored in fp32, because llama.cpp computes with them in fp32.
    """
    import gguf

    temporary = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(temporary, architectures.check(model.config))
    writer.add_name(name)
    for key, value in architectures.metadata(model.config).items():
        getattr(writer, f"add_{key}")(value)
    writer.add_file_type(int(gguf.LlamaFileType[_file_type(precision)]))
    _add_vocabulary(writer, vocabulary)
    count = 0
    for tensor_name, tensor in architectures.tensors(model.config, model.state_dict()):
        values = _numbers(tensor)
        kind = gguf.GGMLQuantizationType[_precision_of(values, precision)]
        writer.add_tensor(tensor_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        count += 1
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    return count


def _file_type(precision: Precision) -> str:
    return "ALL_F32" if precision == "F32" else f"MOSTLY_{precision}"


def _numbers(tensor: "Tensor") -> Array:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _precision_of(values: Array, precision: Precision) -> str:
    if values.ndim == 1:
        return "F32"
    return "F16" if precision == "Q8_0" and values.shape[-1] % _BLOCK else precision


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, index in vocabulary.special_ids.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(vocabulary.adds_first_token)
    writer.add_add_eos_token(False)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def largest_difference(path: Path, model: Any) -> float:
    """Read the file back and return the largest |weight of the file - weight of `model`|.

    Raises BadInput if the file has other tensors than the model, or a tensor has another shape.
    """
    import gguf

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    largest, names = 0.0, set[str]()
    for name, tensor in architectures.tensors(model.config, model.state_dict()):
        names.add(name)
        if name not in stored:
            raise BadInput(f"{path}: the tensor {name} is missing. Delete the file and export the model again.")
        values = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        if values.shape != tuple(tensor.shape):
            raise BadInput(f"{path}: {name} has the shape {values.shape} instead of {tuple(tensor.shape)}.")
        largest = max(largest, float(np.abs(values - _numbers(tensor)).max(initial=0)))
    if more := sorted(stored.keys() - names):
        raise BadInput(f"{path}: the model has no tensor {more[0]}. Delete the file and export the model again.")
    return largest


def metadata(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield every key of a GGUF file with its value."""
    import gguf

    for key, field in gguf.GGUFReader(path).fields.items():
        yield key, field.contents()
