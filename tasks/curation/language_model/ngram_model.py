"""An n-gram language model of one language: counts in a hash table, discounts, and the bounds of head, middle and tail.

As in CCNet (arXiv:1911.00359), the perplexity of a text says how unlike the training text it is, and two percentiles of
the perplexity divide texts into head, middle and tail. CCNet uses 5-grams of KenLM over pieces of words; here the
n-grams have at most three words, or Chinese characters. `ngram_kernels` explains the counts.
"""

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tasks.curation.arrays import Float64Array, Int64Array, StringArray, UInt32Array, UInt64Array
from tasks.curation.language_model import ngram_kernels
from tasks.errors import BadInput
from tasks.files import version_problem, with_version

METADATA_KEY = "athanor"  # a single key with JSON: safetensors writes several keys in no fixed order
KIND = "language_model"
COMMAND = "python -m flows.language_model --language CODE --output {path} PATH..."
DEFAULT_DISCOUNT, MIN_DISCOUNT, MAX_DISCOUNT = 0.75, 0.05, 0.95
PARTS = ("head", "middle", "tail")
_LOCK = threading.Lock()


class Params(BaseModel, frozen=True, extra="forbid"):
    """How a language model is trained."""

    bits: int = Field(
        22,
        ge=8,
        le=28,
        description="The hash table has 2**bits slots of 20 bytes. New n-grams are ignored when it is three quarters "
        "full.",
    )
    head_percentile: float = Field(30, gt=0, lt=100, description="Percentile of the perplexity that ends the head.")
    middle_percentile: float = Field(60, gt=0, lt=100, description="Percentile of the perplexity that ends the middle.")


@dataclass(frozen=True, slots=True, eq=False)
class NgramModel:
    """A trained model. keys, numbers: the hash table, uint64 [slots] and uint32 [slots, 3], as in `ngram_kernels`.

    sums: int64 [NUM_SUMS]; discounts: float64 [ORDER]; bounds: greatest perplexity of the head and of the middle, NaN
    until they are measured; about: facts for the reader of the file, such as the language and the number of texts.
    """

    keys: UInt64Array
    numbers: UInt32Array
    sums: Int64Array
    discounts: Float64Array
    bounds: tuple[float, float]
    about: dict[str, Any]

    def perplexities(self, texts: pa.Array | pa.ChunkedArray) -> Float64Array:
        """Return exp(mean nats per token) of each text, float64 [texts]; NaN for a text without a word.

        texts: Arrow strings. The time is linear in their length.
        """
        return ngram_kernels.perplexities(texts, self.keys, self.numbers, self.sums, self.discounts)

    def save(self, path: Path) -> None:
        """Write the model as one safetensors file, the entries in the order of their keys, so that bytes are equal."""
        used = np.flatnonzero(self.keys)
        used = used[np.argsort(self.keys[used])]
        arrays: dict[str, npt.NDArray[Any]] = {"keys": self.keys[used], "numbers": self.numbers[used]}
        arrays |= {"sums": self.sums, "discounts": self.discounts}
        body = with_version(KIND, {"bounds": self.bounds, "about": self.about})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        save_file(arrays, temporary, {METADATA_KEY: json.dumps(body, sort_keys=True)})
        temporary.replace(path)


def load(path: Path) -> NgramModel:
    """Read a saved model. Raises BadInput, with the command that trains one, if there is no model of this version."""
    advice = f"Train a language model: {COMMAND.format(path=path)}"
    try:
        with safe_open(path, "numpy") as file:
            body = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if "bounds" not in body:
                raise BadInput(f"{path} is not a language model. {advice}")
            if problem := version_problem(KIND, body, path):
                raise BadInput(f"{problem} {advice}")
            entry_keys, entry_numbers = file.get_tensor("keys"), file.get_tensor("numbers")
            sums, discounts = file.get_tensor("sums"), file.get_tensor("discounts")
    except FileNotFoundError as error:
        raise BadInput(f"There is no language model {path}. {advice}") from error
    except (OSError, SafetensorError) as error:
        raise BadInput(f"The language model {path} cannot be read ({error}). {advice}") from error
    keys, numbers = empty_table((2 * len(entry_keys)).bit_length())
    ngram_kernels.insert_entries(entry_keys, entry_numbers, keys, numbers)
    return NgramModel(keys, numbers, sums, discounts, tuple(body["bounds"]), body["about"])


def load_cached(path: Path) -> NgramModel:
    """Read a saved model, once per process and version of the file. Raises BadInput as `load`."""
    with _LOCK:  # of several threads that need a model at once, one reads it
        state = path.stat() if path.is_file() else None
        return _load_version(path, state.st_mtime_ns if state else 0, state.st_size if state else 0)


@lru_cache(8)
def _load_version(path: Path, modified_ns: int, size: int) -> NgramModel:
    return load(path)


def train(texts: Iterable[pa.Array], params: Params, about: dict[str, Any]) -> NgramModel:
    """Count the n-grams of texts (arrays of large_string). The bounds of the model are not measured: NaN.

    The same texts in the same order give the same model. Memory is bounded by the hash table and one array of texts.
    Raises BadInput if there is no word.
    """
    keys, numbers = empty_table(params.bits)
    sums = np.zeros(ngram_kernels.NUM_SUMS, np.int64)
    frequencies = np.zeros((ngram_kernels.ORDER, 2), np.int64)
    num_texts = 0
    for part in texts:
        num_texts += len(part)
        ngram_kernels.count_ngrams(part, keys, numbers, sums, frequencies)
    if not sums[ngram_kernels.UNIGRAM_TYPES]:
        raise BadInput("A language model needs text, but the texts contain no word.")
    about = {**about, "texts": num_texts, "tokens": int(sums[ngram_kernels.NUM_TOKENS]), "bits": params.bits}
    return NgramModel(keys, numbers, sums, discounts_of(frequencies), (float("nan"), float("nan")), about)


def discounts_of(frequencies: Int64Array) -> Float64Array:
    """Return the discount of each order, n1 / (n1 + 2 n2) (Ney et al. 1994), float64 [ORDER].

    frequencies: int64 [ORDER, 2], the numbers n1 and n2 of n-grams that were counted once and twice.
    """
    once, twice = frequencies[:, 0].astype(np.float64), frequencies[:, 1].astype(np.float64)
    estimates = np.where((once > 0) & (twice > 0), once / np.maximum(once + 2 * twice, 1), DEFAULT_DISCOUNT)
    return np.clip(estimates, MIN_DISCOUNT, MAX_DISCOUNT)


def parts_of(perplexities: Float64Array, bounds: tuple[float, float]) -> StringArray:
    """Return head, middle or tail for each perplexity; "" for NaN, a text without a word."""
    index = np.searchsorted(np.array(bounds), perplexities)  # a value that equals a bound belongs below it
    return np.where(np.isnan(perplexities), "", np.array(PARTS)[np.minimum(index, 2)])


def empty_table(bits: int) -> tuple[UInt64Array, UInt32Array]:
    """Return the keys, uint64 [2**bits], and the numbers, uint32 [2**bits, 3], of an empty hash table."""
    return np.zeros(1 << bits, np.uint64), np.zeros((1 << bits, 3), np.uint32)
