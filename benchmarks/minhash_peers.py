"""Signatures of 5-word shingles by other libraries, for `benchmarks.minhash`; run in an environment of their own.

python minhash_peers.py TEXTS.parquet OUT_FOLDER -> {"engine": [bytes, CPU seconds], ...}
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable

import pyarrow.parquet as pq
import xxhash
from datasketch import MinHash
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from rensa import CMinHash, RMinHash

SIZE, BANDS, ROWS = 5, 14, 8
SLOW_BYTES = 3 << 20  # bytes of text for an engine that reads about one megabyte per second


def shingles(text: str) -> list[str]:
    """Return the shingles for all engines except datatrove, which has its own tokenizer."""
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + SIZE]) for i in range(len(words) - SIZE + 1)]


def datasketch(texts: list[str]) -> None:
    """Use the fastest documented way: xxh32, affine32, and sketches in bulk."""
    sets = ([shingle.encode() for shingle in shingles(text)] for text in texts)
    for _ in MinHash.generator(sets, num_perm=BANDS * ROWS, hashfunc=xxhash.xxh32_intdigest, scheme="affine32"):
        pass


def rensa_r(texts: list[str]) -> None:
    """Use R-MinHash, text by text."""
    for text in texts:
        sketch = RMinHash(num_perm=BANDS * ROWS, seed=1)
        sketch.update(shingles(text))
        sketch.digest()


def rensa_matrix(texts: list[str]) -> None:
    """Use R-MinHash, 512 texts at a time."""
    for start in range(0, len(texts), 512):
        sets = [shingles(text) for text in texts[start : start + 512]]
        RMinHash.digest_matrix_from_token_sets(sets, BANDS * ROWS, 1)


def rensa_c(texts: list[str]) -> None:
    """Use C-MinHash, text by text."""
    for text in texts:
        sketch = CMinHash(num_perm=BANDS * ROWS, seed=1)
        sketch.update(shingles(text))
        sketch.digest()


def datatrove(texts: list[str]) -> None:
    """Use the first stage of its deduplication, with its default tokenizer."""
    config = MinhashConfig(n_grams=SIZE, num_buckets=BANDS, hashes_per_bucket=ROWS)
    step = MinhashDedupSignature(sys.argv[2], config, language="eng")
    step.run((Document(text=text, id=str(i)) for i, text in enumerate(texts)), 0, 1)


def measure(engine: Callable[[list[str]], None], texts: list[str]) -> tuple[int, float]:
    """Return the bytes of text and the CPU seconds."""
    engine(texts[:3])  # loads models and tables once
    start = time.process_time()
    engine(texts)
    return sum(len(text.encode()) for text in texts), time.process_time() - start


def first_texts(texts: list[str], max_bytes: int) -> list[str]:
    """Return the first texts, up to a total size."""
    selected, total = [], 0
    for text in texts:
        total += len(text.encode())
        if total > max_bytes:
            break
        selected.append(text)
    return selected


if __name__ == "__main__":
    texts = pq.read_table(sys.argv[1])["text"].to_pylist()
    with contextlib.redirect_stdout(sys.stderr):
        engines = (datasketch, rensa_r, rensa_matrix, rensa_c)
        results = {engine.__name__: measure(engine, texts) for engine in engines}
        results["datatrove"] = measure(datatrove, first_texts(texts, SLOW_BYTES))
    print(json.dumps(results))
