"""Train a language model on files or tables, and measure the bounds of head, middle and tail on texts held out from it.

A table, such as data/curated, gives the train documents in the language of the model. Of a file of JSON lines (.jsonl),
each field `text` is a text, of a text file (.txt) each line that is not blank; both may be compressed (.gz).
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks import tables
from tasks.curation.language_model import ngram_kernels, ngram_model
from tasks.curation.language_model.ngram_model import NgramModel, Params
from tasks.errors import BadInput
from tasks.files import MANIFEST

HELD_OUT_EVERY, MAX_HELD_OUT, MIN_TEXTS = 10, 20_000, 100
BATCH_LINES = 4096
SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


def train_and_save(paths: Sequence[Path], language: str, bits: int, output: Path) -> dict[str, Any]:
    """Train a model on paths, write it to `output`, and return its facts. Raises BadInput as `train_on_paths`.

    bits: as in Params, which has the percentiles, too.
    """
    model = train_on_paths(paths, language, Params(bits=bits))
    model.save(output)
    return describe(model)


def train_on_paths(paths: Sequence[Path], language: str, params: Params) -> NgramModel:
    """Train a model on the texts of files, folders of files, and tables, in this order; the folders are sorted.

    Of the first texts, every tenth is not trained on: the bounds are percentiles of the perplexity of these texts.
    Raises BadInput if a path cannot be read or if there are fewer than MIN_TEXTS texts with a word.
    """
    held_out: list[pa.Array] = []
    parts = _hold_out((part for path in paths for part in read_texts(path, language)), held_out)
    model = ngram_model.train(parts, params, {"language": language, "paths": [str(path) for path in paths]})
    measured = model.perplexities(pa.chunked_array(held_out, pa.large_string()))
    measured = measured[~np.isnan(measured)]
    if len(measured) * HELD_OUT_EVERY < MIN_TEXTS:
        raise BadInput(
            f"A language model needs at least {MIN_TEXTS} texts, but {', '.join(map(str, paths))} contain about "
            f"{len(measured) * HELD_OUT_EVERY} with a word in the language {language!r}. Name more text as PATH."
        )
    head, middle = np.percentile(measured, [params.head_percentile, params.middle_percentile]).tolist()
    return replace(model, bounds=(head, middle), about={**model.about, "held_out": len(measured)})


def describe(model: NgramModel) -> dict[str, Any]:
    """Return the facts about a model that the command prints: its size and its bounds."""
    tokens, ignored = model.about["tokens"], int(model.sums[ngram_kernels.NUM_IGNORED])
    return {
        "language": model.about["language"],
        "texts": model.about["texts"],
        "held_out": model.about["held_out"],
        "tokens": tokens,
        "ngrams": int(model.sums[ngram_kernels.USED]),
        "slots": len(model.keys),
        "ignored_share": ignored / tokens,
        "max_perplexity_of_head": model.bounds[0],
        "max_perplexity_of_middle": model.bounds[1],
    }


def read_texts(path: Path, language: str) -> Iterator[pa.Array]:
    """Yield the texts of a file, a folder or a table as arrays of large_string. Raises BadInput."""
    if not path.exists():
        raise BadInput(f"There is no file or folder {path}. Name the text of the language model as PATH.")
    if (path / MANIFEST).is_file():
        yield from _read_table(path, language)
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
        if not files:
            raise BadInput(f"{path} contains neither a table nor files that end with {', '.join(SUFFIXES)}.")
        for file in files:
            yield from _read_file(file)
    else:
        yield from _read_file(path)


def _hold_out(parts: Iterable[pa.Array], held_out: list[pa.Array]) -> Iterator[pa.Array]:
    """Yield the texts to train on, and append the others to `held_out`."""
    num_texts = 0
    for part in parts:
        rows = num_texts + np.arange(len(part))
        chosen = (rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) & (rows < HELD_OUT_EVERY * MAX_HELD_OUT)
        num_texts += len(part)
        held_out.append(part.filter(pa.array(chosen)))
        yield part.filter(pa.array(~chosen))


def _read_table(folder: Path, language: str) -> Iterator[pa.Array]:
    for batch in tables.batches(folder):
        if "text" not in batch.column_names:
            raise BadInput(f"{folder} is a table without the column `text`; expected documents, such as data/curated.")
        for column, value in (("language", language), ("split", "train")):
            if column in batch.column_names:
                batch = batch.filter(pc.equal(batch[column], value))
        yield batch["text"].cast(pa.large_string()).combine_chunks()


def _read_file(path: Path) -> Iterator[pa.Array]:
    if not path.name.endswith(SUFFIXES):
        raise BadInput(f"{path} is neither a table nor a file that ends with {', '.join(SUFFIXES)}.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            texts = _parse_lines(file, path)
            while batch := list(islice(texts, BATCH_LINES)):
                yield pa.array(batch, pa.large_string())
    except (OSError, EOFError) as error:
        raise BadInput(f"The text {path} cannot be read: {error}") from error


def _parse_lines(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    is_json = ".jsonl" in path.suffixes
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}). Convert the file, for "
                "example with `iconv -f GB18030 -t UTF-8`."
            ) from error
        if not is_json:
            yield text
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise BadInput(f'{path}, line {number}: expected {{"text": "..."}}')
        yield record["text"].encode("utf-8", "replace").decode()
