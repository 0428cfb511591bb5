"""MinHash beside its peers: speed from text to signatures, equality with datasketch, recall, precision, clustering.

    make bench NAME=minhash

CPU seconds of one core, all engines in one run on the same text and the same 5-word shingles, 14 bands of 8 rows.
"""

import functools
import json
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpora, peers
from tasks.curation.duplicates import clusters, minhash
from tasks.curation.text import shingles, words

PEERS = [
    "datasketch==2.0.0",
    "rensa==0.5.0",
    "datatrove[processing]==0.10.1",
    "spacy==3.8.18",
    "xxhash>=3",
    "pyarrow>=25",
]
PARAMS = minhash.Params()
SPEED_BYTES, TRUTH_BYTES = 24 << 20, 64 << 20
PAIRS_PER_DECILE, NUM_SIGNATURES = 60_000, 5_000_000
WORDS_PER_TEXT = 80


def texts_of(documents: list[str]) -> pa.Array:
    """As curation reads them."""
    return pa.array(documents, pa.large_string())


def signature_rate(texts: pa.Array) -> float:
    """MB per CPU-second, the best of three."""
    minhash.signatures(texts.slice(0, 3), PARAMS)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        minhash.signatures(texts, PARAMS)
        seconds.append(time.process_time() - start)
    return float(words.byte_lengths(texts).sum()) / 1e6 / min(seconds)


def identical_share(texts: pa.Array) -> float:
    """Share of documents whose signature is that of datasketch, given the plain-Python hash of every shingle."""
    from datasketch import MinHash

    remembered = functools.lru_cache(None)(words.token_hash)
    start = MinHash(PARAMS.num_permutations, seed=PARAMS.seed, hashfunc=int, scheme="affine32")
    same = 0
    for text, signature in zip(texts.to_pylist(), minhash.signatures(texts, PARAMS), strict=True):
        tokens = [remembered(token) for token in words.tokens(text)]
        oracle = start.copy()
        oracle.update_batch(shingles.hash_of(tokens[i : i + 5]) for i in range(len(tokens) - 4))
        same += np.array_equal(oracle.hashvalues, signature)
    return same / len(texts)


def edited_pairs(vocabulary: list[str], decile: int, number: int) -> tuple[list[str], list[str]]:
    """Runs of real words, and copies with so many words replaced that J spreads evenly over one tenth."""
    dice, left, right = random.Random(decile), [], []
    for _ in range(number):
        at = dice.randrange(len(vocabulary) - 2 * WORDS_PER_TEXT)
        wanted = (decile + dice.random()) / 10
        edits = round(WORDS_PER_TEXT * (1 - wanted) / (1 + wanted))
        text = vocabulary[at : at + WORDS_PER_TEXT]
        left.append(" ".join(text))
        right.append(" ".join(text[edits:] + dice.choices(vocabulary, k=edits)))
    return left, right


def recall_by_decile(vocabulary: list[str]) -> list[dict[str, float]]:
    """For each tenth of J: pairs, and the share of them that shares a band, beside the share expected."""
    rows = []
    for decile in range(10):
        left, right = (texts_of(side) for side in edited_pairs(vocabulary, decile, PAIRS_PER_DECILE))
        similarity = np.array(list(pair_similarities(left, right)))
        found = (minhash.compute_band_keys(left, PARAMS).keys == minhash.compute_band_keys(right, PARAMS).keys).any(
            axis=0
        )
        here = (similarity * 10).astype(int).clip(0, 9) == decile
        expected = 1 - (1 - similarity[here] ** 8) ** 14
        row = {
            "decile": decile / 10,
            "pairs": int(here.sum()),
            "found": found[here].mean(),
            "expected": expected.mean(),
        }
        rows.append(row)
    return rows


def pair_similarities(left: pa.Array, right: pa.Array) -> Any:
    """The exact Jaccard similarity of each pair."""
    (a, ends_a), (b, ends_b) = shingles.sets(left, 5), shingles.sets(right, 5)
    for i in range(len(left)):
        yield clusters.jaccard(a[ends_a[i] : ends_a[i + 1]], b[ends_b[i] : ends_b[i + 1]])


def natural_pairs(texts: pa.Array) -> tuple[float, float, int]:
    """The pairs with J >= 0.8 that a corpus has by nature: share that became candidates, share in one cluster, number.

    They are looked for with 37 bands of 3 rows, which miss one such pair in 10^12.
    """
    wide = minhash.compute_band_keys(texts, minhash.Params(bands=37, rows=3))
    candidates = set()
    for key in wide.keys:
        rows = np.flatnonzero(wide.has_shingles)[np.argsort(key[wide.has_shingles], kind="stable")]
        for bucket in np.split(rows, np.flatnonzero(np.diff(key[rows])) + 1):
            candidates.update(combinations(sorted(bucket.tolist()), 2) if len(bucket) > 1 else ())
    real = functools.lru_cache(None)(lambda row: frozenset(shingles.shingles(texts[row].as_py(), 5)))
    true = [pair for pair in sorted(candidates) if alike(real(pair[0]), real(pair[1]))]
    keys = minhash.compute_band_keys(texts, PARAMS).keys
    roots = clusters_of(texts).roots
    met = sum((keys[:, i] == keys[:, j]).any() for i, j in true)
    return met / len(true), sum(roots[i] == roots[j] for i, j in true) / len(true), len(true)


def clusters_of(texts: pa.Array) -> clusters.Clusters:
    """As `minhash.duplicates` makes them."""
    banded = minhash.compute_band_keys(texts, PARAMS)
    sets_of = functools.partial(minhash.shingle_sets, texts, 5)
    sizes = words.byte_lengths(texts)
    return clusters.connect_duplicates(
        banded.keys, banded.has_shingles, sizes, sets_of, PARAMS.threshold, PARAMS.max_bucket
    )


def precision(texts: list[str]) -> tuple[float, float, int]:
    """The share of edges with J >= 0.8 by their real words, that of a forest of mere candidates, and their number."""
    array = texts_of(texts)
    real = functools.lru_cache(None)(lambda row: frozenset(shingles.shingles(texts[row], 5)))
    edges = clusters_of(array).edges.tolist()
    banded = minhash.compute_band_keys(array, PARAMS)
    roots = clusters.connect_candidates(banded.keys, banded.has_shingles)
    guesses = [(i, root) for i, root in enumerate(roots.tolist()) if i != root]
    right, guessed = (sum(alike(real(i), real(j)) for i, j in pairs) for pairs in (edges, guesses))
    return right / len(edges), guessed / len(guesses), len(edges)


def alike(left: frozenset[Any], right: frozenset[Any]) -> bool:
    """J >= 0.8, in whole numbers."""
    common = len(left & right)
    return 5 * common >= 4 * (len(left) + len(right) - common)


def cluster(number: int) -> dict[str, float]:
    """Documents per CPU-second from signatures to clusters, and bytes of arrays for each, signatures included."""
    tracemalloc.start()
    signatures = planted(number)
    tracemalloc.reset_peak()
    start = time.process_time()
    keys = clusters.band_keys(signatures, 14, 8)
    roots = clusters.connect_candidates(keys, np.ones(number, np.bool_))
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    assert len(np.unique(roots)) == number - number // 5, "every planted copy is in its cluster"
    return {"docs_per_s": number / seconds, "bytes_per_doc": peak / number}


def planted(number: int) -> npt.NDArray[np.uint32]:
    """Random signatures, the last fifth of them copies with a tenth of their bands changed."""
    generator = np.random.default_rng(0)
    signatures = np.empty((number, 112), np.uint32)
    for start in range(0, number, 50_000):
        part = signatures[start : start + 50_000]
        part[:] = generator.integers(0, 1 << 32, part.shape, np.uint32)
    copies = number // 5
    for start in range(number - copies, number, 50_000):
        stop = min(start + 50_000, number)
        signatures[start:stop] = signatures[start - number + copies : stop - number + copies]
        signatures[start:stop, generator.integers(0, 112, 2)] += np.uint32(1)
    return signatures


def main() -> None:
    """Print a table, and one JSON line last."""
    print(corpora.source())
    documents = corpora.english(SPEED_BYTES // 2) + corpora.documentation(SPEED_BYTES // 2)
    random.Random(0).shuffle(documents)
    texts = texts_of(documents)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text": texts}), Path(folder) / "texts.parquet")
        script = Path(__file__).with_name("minhash_peers.py")
        theirs = peers.run(peers.python("curation", PEERS), script, Path(folder) / "texts.parquet", folder)
    rates = {name: size / 1e6 / seconds for name, (size, seconds) in theirs.items()}
    rates["ours"] = signature_rate(texts)
    for name, rate in sorted(rates.items(), key=lambda item: item[1]):
        print(f"{name:14} {rate:8.2f} MB per CPU-second")
    identical = identical_share(texts)
    vocabulary = [word for text in documents for word in words.tokens(text[:20_000])][:2_000_000]
    rows = recall_by_decile(vocabulary)
    for row in rows:
        print("J from {decile:.1f}: {pairs:6} pairs, found {found:.4f}, expected {expected:.4f}".format(**row))
    met, joined, true = natural_pairs(texts_of(corpora.documentation(TRUTH_BYTES, 1)))
    print(f"{true} pairs of real documents with J >= 0.8: candidates {met:.4f}, in one cluster {joined:.4f}")
    mixed = [text for decile in (6, 7, 8) for side in edited_pairs(vocabulary, decile, 5000) for text in side]
    verified, unverified, edges = precision(mixed)
    print(f"{edges} edges: {verified:.4f} right; without verification {unverified:.4f}")
    command = [sys.executable, "-m", "benchmarks.minhash", "cluster"]
    clustering = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(
        "{:,} signatures: {docs_per_s:,.0f} documents/s, {bytes_per_doc:.0f} B each".format(
            NUM_SIGNATURES, **clustering
        )
    )
    result = {
        "vs_datasketch": rates["ours"] / rates["datasketch"],
        "vs_rensa": rates["ours"] / max(rates["rensa_r"], rates["rensa_matrix"], rates["rensa_c"]),
        "vs_datatrove": rates["ours"] / rates["datatrove"],
        "mb_per_cpu_s": rates["ours"],
        "identical_share": identical,
        "max_recall_error": max(abs(row["found"] - row["expected"]) for row in rows),
        "recall_j80": joined,
        "precision": verified,
        "cluster_docs_per_s": clustering["docs_per_s"],
        "cluster_bytes_per_doc": clustering["bytes_per_doc"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:] == ["cluster"]:
        print(json.dumps(cluster(NUM_SIGNATURES)))
    else:
        main()
