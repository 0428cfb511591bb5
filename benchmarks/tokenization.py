"""Tokenization of documents and chats beside LLaMA-Factory's method, `datasets.map` with the same fast tokenizer.

Both read the same rows on one core, encode them with a tokenizer of 8192 tokens that is trained on them, and write
token files: our stage reads Parquet and writes its packed streams; `datasets.map` reads Arrow files, to which the
Parquet files were converted before, and writes one. As in LLaMA-Factory, documents are encoded in batches of 1,000
texts, joined and cut into blocks (data/processor/pretrain.py), and each message of a chat is encoded by itself, and
the ids are joined with labels (data/processor/supervised.py). The ratio is that of the CPU time, without imports,
compilation and loading of the tokenizer; the better of two runs counts. The ids and the loss masks of both are compared
and must be equal. Peak memory is that of the process of our stage, on the rows and on four times as many.

make bench NAME=tokenization
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import corpora
from benchmarks.peers import ONE_CORE

NUM_BYTES = 24 << 20  # of documents; the chats have as many
VOCAB_SIZE, LENGTH = 8192, 256
RUNS, TIMES = 2, 4  # runs of each method, and the size of the larger data
METHODS = ("ours", "datasets_map")


def main() -> None:
    """Write the rows, measure both methods in processes of their own, and print one line of JSON at the end."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    print(corpora.source())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        num_rows = write_rows(root / "once", 1)
        write_rows(root / "more", TIMES)
        body: dict[str, float] = {}
        for kind, count in num_rows.items():
            body |= measure_kind(kind, count, root)
        body["vs_datasets_map"] = min(body[f"{kind}_vs_datasets_map"] for kind in num_rows)
        body["peak_gb"] = max(body[f"{kind}_peak_gb"] for kind in num_rows)
        print(json.dumps({name: round(value, 3) for name, value in body.items()}))


def measure_kind(kind: str, count: int, root: Path) -> dict[str, float]:
    """Measure both methods on documents or conversations, of which there are `count`, and compare what they write."""
    results = {each: [run(each, kind, root / "once", root / each) for _ in range(RUNS)] for each in METHODS}
    check_equal(kind, root / "ours", root / "datasets_map")
    cpu = {each: min(seconds for seconds, _ in results[each]) for each in METHODS}
    peak = min(gigabytes for _, gigabytes in results["ours"])
    larger_peak = run("ours", kind, root / "more", root / "more_ours")[1]
    ratio = cpu["datasets_map"] / cpu["ours"]
    print(
        f"{kind:14} {count:6} rows: {count / cpu['ours']:8.0f} and {count / cpu['datasets_map']:6.0f} per CPU-second, "
        f"{ratio:.1f}x; equal ids; peak {peak:.3f} GB, {larger_peak:.3f} GB on {TIMES} times as many rows"
    )
    rates = {f"{kind}_per_cpu_s": count / cpu["ours"], f"{kind}_per_cpu_s_datasets_map": count / cpu["datasets_map"]}
    peaks = {f"{kind}_peak_gb": max(peak, larger_peak), f"{kind}_peak_growth": larger_peak / peak}
    return rates | {f"{kind}_vs_datasets_map": ratio} | peaks


def write_rows(folder: Path, repetitions: int) -> dict[str, int]:
    """Write documents, chats and the tokenizer; return the numbers of rows. Rows are written `repetitions` times."""
    from tasks import tables
    from tasks.conversations import CONVERSATIONS, Conversation
    from tasks.curation.corpus import CURATED
    from tasks.documents import Document
    from tasks.tokenization import bpe

    texts = corpora.english(NUM_BYTES // 2) + corpora.chinese(NUM_BYTES // 2)
    rng, pieces = random.Random(0), [piece[:2000] for text in texts for piece in text.split("\n\n") if piece.strip()]
    rng.shuffle(pieces)
    with tables.Writer(folder / "curated", CURATED) as documents:
        for number, text in enumerate(texts * repetitions):
            extra = {"language": "en", "cluster_size": 1}
            documents.add_row(Document(str(number), text, str(number)).row("bench", "train") | extra)
    with tables.Writer(folder / "conversations" / "curated", CONVERSATIONS) as chats:
        for start in range(0, len(pieces) * repetitions - 3, 4):
            contents = [pieces[(start + i) % len(pieces)] for i in range(4)]
            roles = ("user", "assistant", "user", "assistant")
            messages: Any = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
            chats.add_row(Conversation(str(start), messages, str(start)).row("bench", "train"))
    bpe.save(folder / "tokenizer", bpe.train(texts[:: max(1, len(texts) // 2000)], VOCAB_SIZE))
    return {"documents": documents.num_rows, "conversations": chats.num_rows}


def run(method: str, kind: str, data: Path, output: Path) -> tuple[float, float]:
    """Return CPU seconds and peak memory in GB of one method in a process of its own on one core."""
    command = [sys.executable, "-m", "benchmarks.tokenization", method, kind, str(data), str(output)]
    environment = os.environ | ONE_CORE | {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    seconds, peak = json.loads(printed.strip().splitlines()[-1])
    return seconds, peak


def measure(method: str, kind: str, data: Path, output: Path) -> None:
    """Tokenize with one method, and print CPU seconds and peak memory in GB."""
    from tasks.tokenization import bpe

    tokenizer = bpe.load(str(data / "tokenizer"))
    with tempfile.TemporaryDirectory(dir=data) as folder:
        work = (ours if method == "ours" else datasets_map)(kind, tokenizer, data, output, Path(folder))
        begin = time.process_time()
        work()
        seconds = time.process_time() - begin
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))


def ours(kind: str, tokenizer: Any, data: Path, output: Path, folder: Path) -> Callable[[], object]:
    """The stage of this project: encode, pack and write streams."""
    from tasks.tokenization import document_stream, records

    if kind == "documents":
        return lambda: document_stream.write_documents(
            tokenizer, output / "tokenizer", data / "curated", output / "documents", output / "run"
        )
    packing = records.Packing(LENGTH, False, 0)
    return lambda: records.write_conversations(tokenizer, data / "conversations" / "curated", output, packing)


def datasets_map(kind: str, tokenizer: Any, data: Path, output: Path, folder: Path) -> Callable[[], object]:
    """`datasets.map` with batches of 1,000 rows, as LLaMA-Factory calls it; its result is written to an Arrow file."""
    import datasets

    source = data / "curated" if kind == "documents" else data / "conversations" / "curated"
    files = sorted(map(str, source.glob("*.parquet")))
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder))
    function = encode_documents if kind == "documents" else encode_chats
    output.mkdir(exist_ok=True)
    return lambda: loaded.map(
        lambda batch: function(batch, tokenizer),
        batched=True,
        batch_size=1000,
        remove_columns=loaded.column_names,
        cache_file_name=str(output / f"{kind}.arrow"),
        load_from_cache_file=False,
    )


def encode_documents(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    """Encode texts after the token that starts a document, join them, and cut them into blocks of LENGTH tokens.

    LLaMA-Factory drops the rest of a batch; here it is a shorter block, so that all ids can be compared.
    """
    texts = [tokenizer.bos_token + text for text in batch["text"]]
    encoded = tokenizer(texts, add_special_tokens=False)
    joined = {name: list(chain(*lists)) for name, lists in encoded.items()}
    total = len(joined["input_ids"])
    return {name: [ids[i : i + LENGTH] for i in range(0, total, LENGTH)] for name, ids in joined.items()}


def encode_chats(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    """Encode the messages of each chat one by one, and join the ids with labels."""
    rows: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for messages in batch["messages"]:
        ids, labels = [tokenizer.bos_token_id], [-100]
        for part, is_answer in turns(messages, tokenizer):
            ids += part
            labels += part if is_answer else [-100] * len(part)
        rows["input_ids"].append(ids)
        rows["attention_mask"].append([1] * len(ids))
        rows["labels"].append(labels)
    return rows


def turns(messages: list[dict[str, str]], tokenizer: Any) -> Iterator[tuple[list[int], bool]]:
    """Yield the ids of the header, and those of the content with the end token, of each message."""
    for message in messages:
        yield [tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")], False
        ids = tokenizer.encode(message["content"], add_special_tokens=False)
        yield [*ids, tokenizer.eos_token_id], message["role"] == "assistant"


def check_equal(kind: str, folder: Path, other_folder: Path) -> None:
    """Compare the ids of documents, or the ids and loss masks of each chat up to the length of a row."""
    import datasets

    from tasks import tokens

    stream = tokens.read_stream(folder / kind / "train")
    rows = datasets.Dataset.from_file(str(other_folder / f"{kind}.arrow"))
    if kind == "documents":
        assert np.array_equal(stream.ids, np.concatenate([np.array(ids) for ids in rows["input_ids"]]))
        return
    records = tokens.read_records(folder / kind / "train")
    assert len(rows) == len(records.starts)
    for row, start, length in zip(rows, records.starts, records.lengths, strict=True):
        part = slice(start, start + length)
        assert np.array_equal(stream.ids[part], row["input_ids"][:LENGTH])
        assert np.array_equal(stream.loss_mask[part] == 1, np.array(row["labels"][:LENGTH]) != -100)


if __name__ == "__main__":
    main()
