"""Read curated tables and write token files: one function per kind of record, which returns its counts by split."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks import pairs, tables, tokens
from tasks.conversations import UNTRAINED, Message
from tasks.documents import SPLITS
from tasks.tokenization import packing
from tasks.tokenization.chat import Encoder

CountsBySplit = dict[str, dict[str, int]]
"""split -> name of a count -> count"""

BATCH_ROWS = 1024  # records that are encoded at once


# In this order, because Japanese and Korean texts contain Han characters, too.
SCRIPTS = {
    "ja": re.compile("[\u3041-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7a3]"),
    "zh": re.compile("[\u4e00-\u9fff\u3400-\u4dbf]"),
}
SCRIPT_CHARACTERS = 200  # of each of the first messages that are looked at
LETTERS = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Packing:
    """row_length: tokens per row; drop_too_long: whether to drop longer conversations, otherwise they are truncated."""

    row_length: int
    drop_too_long: bool
    seed: int


class Labels:
    """The source and the language of each record, in order."""

    def __init__(self) -> None:
        self.by_kind: dict[str, list[str]] = {"source": [], "language": []}

    def add(self, sources: Sequence[str], languages: Sequence[str | None]) -> None:
        """Append those of a batch; a language that is not known is `unknown`."""
        self.by_kind["source"] += sources
        self.by_kind["language"] += [language or "unknown" for language in languages]


def script(messages: Sequence[Message]) -> str:
    """Return the language that the script of a conversation tells: zh, ja, ko, or otherwise `latin`.

    Conversations are not identified by language like documents; a tenth of the letters at their start decides.
    """
    text = " ".join(message["content"][:SCRIPT_CHARACTERS] for message in messages[:3])
    num_letters = max(1, len(LETTERS.findall(text)))
    for language, pattern in SCRIPTS.items():
        if len(pattern.findall(text)) >= num_letters / 10:
            return language
    return "latin"


def train_texts(data: Path, share: float) -> Iterator[str]:
    """Yield the train texts: the first `share` of each shard's documents, then of the conversations, by message."""
    for table in _read_shards(data / "curated", ("text", "split")):
        texts = _select_split(table, "train")["text"]
        yield from texts.slice(0, _share_of(len(texts), share)).to_pylist()
    for table in _read_shards(data / "conversations/curated", ("messages", "split")):
        conversations = _select_split(table, "train")["messages"]
        for messages in conversations.slice(0, _share_of(len(conversations), share)).to_pylist():
            yield from (message["content"] for message in messages)


def write_documents(tokenizer: Any, source: Path, folder: Path) -> CountsBySplit:
    """Write the documents of the table `source` as one stream per split, <folder>/<split>/."""
    encoder, counts = Encoder(tokenizer), CountsBySplit()
    for split in SPLITS:
        documents: list[tokens.Ids] = []
        labels, num_bytes = Labels(), 0
        for columns in _read_batches(source, split, ("text", "source", "language")):
            texts = columns["text"]
            documents += [ids.astype(np.uint32) for ids in encoder.encode_documents(texts)]
            num_bytes += sum(len(text.encode()) for text in texts)
            labels.add(columns["source"], columns["language"])
        stream = packing.concatenate(documents, encoder.vocab_size)
        tokens.write_stream(folder / split, stream)
        lengths = np.array([len(ids) for ids in documents], np.int64)
        tokens.write_records(folder / split, tokens.make_records(lengths.cumsum() - lengths, lengths, labels.by_kind))
        counts[split] = {"num_documents": len(documents), "num_tokens": len(stream.ids), "num_bytes": num_bytes}
    return counts


def write_conversations(tokenizer: Any, source: Path, folder: Path, params: Packing) -> CountsBySplit:
    """Write the conversations of the table `source` as one packed stream per split, <folder>/conversations/<split>/."""
    encoder, counts = Encoder(tokenizer), CountsBySplit()
    for split in SPLITS:
        conversations, labels, num_bytes, num_dropped = list[Any](), Labels(), 0, 0
        for batch, sources in _read_conversations(source, split):
            encoded = encoder.encode_conversations(batch)
            fits = [not params.drop_too_long or len(ids) <= params.row_length for ids, _ in encoded]
            kept = list(itertools.compress(encoded, fits))
            languages = [script(messages) for messages in itertools.compress(batch, fits)]
            labels.add(list(itertools.compress(sources, fits)), languages)
            num_dropped += len(encoded) - len(kept)
            num_bytes += sum(len(message["content"].encode()) for messages in batch for message in messages)
            conversations += kept
        packed = packing.pack(conversations, params.row_length, encoder.pad, encoder.vocab_size, params.seed)
        tokens.write_stream(folder / "conversations" / split, packed.stream)
        where = tokens.make_records(packed.starts, packed.lengths, labels.by_kind)
        tokens.write_records(folder / "conversations" / split, where)
        counts[split] = {
            "num_conversations": len(conversations),
            "num_dropped": num_dropped,
            "num_bytes": num_bytes,
            "num_tokens": len(packed.stream.ids) - packed.num_padding,
            "num_targets": int(packed.stream.loss_mask.sum()),
            "num_rows": packed.num_rows,
            "num_truncated": packed.num_truncated,
            "num_padding": packed.num_padding,
        }
    return counts


def write_preferences(tokenizer: Any, source: Path, folder: Path) -> CountsBySplit:
    """Write the preferences of the table `source`: <folder>/<split>/{prompt,chosen,rejected}/ as ragged lists.

    reasons.json has the reason of each pair. lists.json has the id of the ranked list that a pair comes from, and null
    for a pair that was given alone. Answers that were judged alone are in <folder>/<split>/unpaired/.
    """
    encoder, counts = Encoder(tokenizer), CountsBySplit()
    for split in SPLITS:
        rows = _read_table(source, split, ("prompt", "chosen", "rejected", "reason", "metadata"))
        is_pair = pc.and_(pc.is_valid(rows["chosen"]), pc.is_valid(rows["rejected"]))
        table, unpaired = rows.filter(is_pair), rows.filter(pc.invert(is_pair))
        columns = {name: table[name].to_pylist() for name in table.column_names}
        encoded = {"prompt": _encode_in_batches(encoder.encode_prompts, columns["prompt"])}
        encoded |= {name: _encode_in_batches(encoder.encode_answers, columns[name]) for name in ("chosen", "rejected")}
        ranked_lists = [json.loads(metadata).get("list") for metadata in columns["metadata"]]
        pairs.write_pairs(folder / split, encoded, columns["reason"], ranked_lists, encoder.vocab_size)
        num_tokens = sum(len(ids) for id_lists in encoded.values() for ids in id_lists)
        num_tokens += _write_unpaired(encoder, unpaired, folder / split)
        counts[split] = {"num_pairs": len(table), "num_unpaired": len(unpaired), "num_tokens": num_tokens}
    return counts


def _write_unpaired(encoder: Encoder, rows: pa.Table, folder: Path) -> int:
    """Write answers that were judged alone; return the number of their tokens and of those of their prompts."""
    answers = pc.coalesce(rows["chosen"], rows["rejected"]).to_pylist() if len(rows) else []
    prompt_ids = _encode_in_batches(encoder.encode_prompts, rows["prompt"].to_pylist())
    answer_ids = _encode_in_batches(encoder.encode_answers, answers)
    is_good = pc.is_valid(rows["chosen"]).to_pylist()
    pairs.write_unpaired(folder, prompt_ids, answer_ids, is_good, encoder.vocab_size)
    return sum(len(ids) for ids in (*prompt_ids, *answer_ids))


def write_prompts(tokenizer: Any, data: Path, folder: Path) -> CountsBySplit:
    """Write the distinct prompts of conversations and preferences as ragged lists, <folder>/<split>/.

    metadata.json has a dict for each prompt: the metadata of its record, with `text` (the last message of the user) and
    `reference` (a good answer, if there is one).
    """
    encoder, counts = Encoder(tokenizer), CountsBySplit()
    preferences = _read_shards(data / "preferences/curated", ("source",))
    preference_sources = {name for table in preferences for name in pc.unique(table["source"]).to_pylist()}
    for split in SPLITS:
        distinct: dict[str, tuple[list[Message], dict[str, Any], str]] = {}
        for prompt, metadata, source in _read_prompts(data, split):
            key = json.dumps(prompt)
            if key not in distinct or ("reference" in metadata and "reference" not in distinct[key][1]):
                distinct[key] = (prompt, metadata, source)
        id_lists = _encode_in_batches(encoder.encode_prompts, [prompt for prompt, _, _ in distinct.values()])
        metadata_of_prompts = [metadata for _, metadata, _ in distinct.values()]
        sources = [source for _, _, source in distinct.values()]
        pairs.write_prompts(
            folder / split, id_lists, metadata_of_prompts, encoder.vocab_size, sources, preference_sources
        )
        counts[split] = {"num_prompts": len(id_lists), "num_tokens": sum(len(ids) for ids in id_lists)}
    return counts


def _read_prompts(data: Path, split: str) -> Iterator[tuple[list[Message], dict[str, Any], str]]:
    """Yield every prompt with its metadata and source, first of conversations, then of preferences."""
    for row in _read_table(data / "conversations/curated", split, ("messages", "metadata", "source")).to_pylist():
        *prompt, answer = row["messages"]
        yield prompt, _prompt_metadata(row, prompt, answer["content"]), row["source"]
    columns = ("prompt", "chosen", "metadata", "source")
    for row in _read_table(data / "preferences/curated", split, columns).to_pylist():
        yield row["prompt"], _prompt_metadata(row, row["prompt"], row["chosen"]), row["source"]


def _prompt_metadata(row: dict[str, Any], prompt: Sequence[Message], reference: str | None) -> dict[str, Any]:
    metadata = {**json.loads(row["metadata"]), "text": prompt[-1]["content"] if prompt else ""}
    return metadata if reference is None else {**metadata, "reference": reference}


def _encode_in_batches(encode: Callable[[Any], list[Any]], rows: Sequence[Any]) -> list[Any]:
    return [ids for start in range(0, len(rows), BATCH_ROWS) for ids in encode(rows[start : start + BATCH_ROWS])]


def _read_batches(folder: Path, split: str, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    for table in _read_shards(folder, (*columns, "split")):
        for batch in _select_split(table, split).to_batches(max_chunksize=BATCH_ROWS):
            yield {name: batch[name].to_pylist() for name in columns}


def _read_conversations(folder: Path, split: str) -> Iterator[tuple[list[list[Message]], list[str]]]:
    """Yield batches of conversations, with their sources.

    Answers that are context only, as their metadata say, have the weight 0.
    """
    for table in _read_shards(folder, ("messages", "metadata", "source", "split")):
        for batch in _select_split(table, split).to_batches(max_chunksize=BATCH_ROWS):
            conversations = batch["messages"].to_pylist()
            for messages, metadata in zip(conversations, batch["metadata"].to_pylist(), strict=True):
                if f'"{UNTRAINED}"' in metadata:
                    for index in json.loads(metadata)[UNTRAINED]:
                        messages[index]["weight"] = 0
            yield conversations, batch["source"].to_pylist()


def _read_table(folder: Path, split: str, columns: Sequence[str]) -> pa.Table:
    shards = [_select_split(table, split) for table in _read_shards(folder, (*columns, "split"))]
    return pa.concat_tables(shards) if shards else pa.table({name: [] for name in columns})


def _read_shards(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the shards of a table; nothing if the data has no records of this kind."""
    if folder.is_dir():
        yield from tables.shards(folder, columns)


def _select_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def _share_of(count: int, share: float) -> int:
    """Return count * share, rounded up."""
    return -int(-count * share // 1)
