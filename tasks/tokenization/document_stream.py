"""Documents as token files: encoded in this process, or one shard per task on the cluster, with the same bytes."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks import tables
from tasks.documents import SPLITS
from tasks.engine import settings
from tasks.engine.engine import Engine, check_part, complete
from tasks.files import read_json, sha256, write_json
from tasks.tokenization import bpe, packing, records
from tasks.tokenization.chat import Encoder
from tasks.tokenization.merge_kernels import UInt32Array
from tasks.tokenization.patterns import Int64Array
from tasks.tokenization.records import CountsBySplit

COLUMNS = ("text", "source", "language")
ENCODED, ABOUT = "encoded.arrow", "about.json"
SCHEMA = pa.schema([("ids", pa.large_list(pa.uint32())), ("source", pa.string()), ("language", pa.string())])


@dataclass(frozen=True, slots=True)
class EncodedDocuments:
    """Some documents of one split. ids, starts: as of `Encoder.encode_documents`; num_bytes: of their texts."""

    split: str
    ids: UInt32Array
    starts: Int64Array
    sources: list[str]
    languages: list[str]
    num_bytes: int


def write_documents(tokenizer: Any, saved: Path, source: Path, folder: Path, run: Path) -> CountsBySplit:
    """Write the documents of the table `source` as one stream per split, <folder>/<split>/.

    saved: the folder of the tokenizer, which the workers of a cluster load; run: the folder for intermediate files.
    """
    encoder, num_bytes = Encoder(tokenizer), dict.fromkeys(SPLITS, 0)
    with ExitStack() as stack:
        writers = {split: records.open_stream(stack, folder / split, encoder) for split in SPLITS}
        for part in _encoded_parts(encoder, saved, source, run):
            writer = writers[part.split]
            num_bytes[part.split] += part.num_bytes
            writer.add_starts(writer.num_tokens + part.starts[:-1])
            writer.append(packing.document_stream(part.ids, part.starts, encoder.vocab_size))
            writer.add_records(np.diff(part.starts), {"source": part.sources, "language": part.languages})
    return {
        split: {"num_documents": writer.lengths.size, "num_tokens": writer.num_tokens, "num_bytes": num_bytes[split]}
        for split, writer in writers.items()
    }


def _encoded_parts(encoder: Encoder, saved: Path, source: Path, run: Path) -> Iterator[EncodedDocuments]:
    if settings.current().engine == "local" or not source.is_dir():
        for split, table in records.read_batches(source, COLUMNS):
            yield _encode(encoder, split, table)
        return
    engine_folder = run / "tokenization"
    with settings.make_engine(engine_folder, 0) as engine:
        yield from encode_on(engine, saved, source)
    shutil.rmtree(engine_folder)


def encode_on(engine: Engine, saved: Path, source: Path) -> Iterator[EncodedDocuments]:
    """Yield the encoded documents of the table `source` in their order. saved: the folder of the tokenizer.

    A shard that a run which was killed has encoded with the same tokenizer is not repeated. Raises BadInput if a task
    has ended its worker in every attempt, because its documents would be lost.
    """
    files = {path.name: sha256(path) for path in sorted(saved.iterdir()) if path.is_file()}
    shared = {"folder": str(source.absolute()), "tokenizer": str(saved.absolute()), "files": files}
    tasks = {f"{n:05d}": {**shared, "shard": shard} for n, shard in enumerate(tables.manifest(source)["shards"])}
    encoded = engine.run("encode", list(tasks), encode_shard, tasks)
    complete(encoded, "documents would be lost", "Give the workers more memory, and run it again.")
    for key in encoded.parts:
        check_part(encoded, key)
        yield from _read(encoded.path(key, ENCODED), encoded.path(key, ABOUT))


def encode_shard(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Encode the documents of one shard; write each part of a split as one batch of Arrow."""
    encoder, about = _encoder(task["tokenizer"], tuple(task["files"].values())), list[Any]()
    batches = tables.shard_batches(
        Path(task["folder"]), task["shard"], records.BATCH_BYTES, records.with_split(COLUMNS)
    )
    with pa.ipc.new_file(str(part / ENCODED), SCHEMA) as writer:
        for split, table in records.by_split(batches):
            encoded = _encode(encoder, split, table)
            ids = pa.LargeListArray.from_arrays(pa.array(encoded.starts), pa.array(encoded.ids))
            labels = [pa.array(values, pa.string()) for values in (encoded.sources, encoded.languages)]
            writer.write_batch(pa.record_batch([ids, *labels], schema=SCHEMA))
            about.append([split, encoded.num_bytes])
    write_json(part / ABOUT, about)
    return {"documents": task["shard"]["rows"]}


@lru_cache(1)
def _encoder(folder: str, _files: tuple[str, ...]) -> Encoder:
    """Return the encoder of a saved tokenizer; a worker keeps it from one task to the next. files: their digests."""
    return Encoder(bpe.load(folder))


def _encode(encoder: Encoder, split: str, table: pa.Table) -> EncodedDocuments:
    texts = table["text"].combine_chunks()
    ids, starts = encoder.encode_documents(texts)
    languages = [language or "unknown" for language in table["language"].to_pylist()]
    return EncodedDocuments(split, ids, starts, table["source"].to_pylist(), languages, records.num_bytes(texts))


def _read(path: Path, about: Path) -> Iterator[EncodedDocuments]:
    """Yield what `encode_shard` has written."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    for number, (split, num_bytes) in enumerate(read_json(about)):
        batch = file.get_batch(number)
        lists, sources, languages = batch.columns
        ids, starts = lists.values.to_numpy(), lists.offsets.to_numpy()
        yield EncodedDocuments(split, ids, starts, sources.to_pylist(), languages.to_pylist(), num_bytes)
