"""MinHash compared with other libraries: speed from text to signatures, equality with datasketch, recall, precision,
and the speed and memory of clustering.

    make bench NAME=minhash

Times are CPU seconds of one core. All engines run in one session on the same text and the same 5-word shingles, with
signatures of 112 values.
"""

import functools
import json
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpora, peers
from tasks.curation.arrays import UInt32Array
from tasks.curation.duplicates import clusters, minhash
from tasks.curation.duplicates.banding import recall
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
SHINGLE_SIZE = 5
SPEED_BYTES, TRUTH_BYTES = 24 << 20, 64 << 20
PAIRS_PER_DECILE, NUM_SIGNATURES = 60_000, 5_000_000
WORDS_PER_TEXT = 80
THRESHOLDS, THRESHOLD_MARGIN = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 0.02
PAIRS_PER_THRESHOLD, LONG_TEXT_WORDS = 10_000, 400  # in longer texts, one edit changes J less
RUNS = 3


def text_array(documents: list[str]) -> pa.Array:
    """Return the texts in the form in which curation reads them."""
    return pa.array(documents, pa.large_string())


def signature_rate(texts: pa.Array) -> float:
    """Return the MB of text signed per CPU second, the best of three runs."""
    minhash.signatures(texts.slice(0, 3), PARAMS)
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        minhash.signatures(texts, PARAMS)
        seconds.append(time.process_time() - start)
    return float(words.byte_lengths(texts).sum()) / 1e6 / min(seconds)


def identical_share(texts: pa.Array) -> float:
    """Return the share of texts whose signature equals datasketch's, which gets the hashes of plain Python."""
    from datasketch import MinHash

    token_hash = functools.lru_cache(None)(words.token_hash)
    template = MinHash(PARAMS.signature_size(), seed=PARAMS.seed, hashfunc=int, scheme="affine32")
    num_identical = 0
    for text, signature in zip(texts.to_pylist(), minhash.signatures(texts, PARAMS), strict=True):
        tokens = [token_hash(token) for token in words.tokens(text)]
        expected = template.copy()
        num_shingles = len(tokens) - SHINGLE_SIZE + 1
        expected.update_batch(shingles.hash_shingle(tokens[i : i + SHINGLE_SIZE]) for i in range(num_shingles))
        num_identical += np.array_equal(expected.hashvalues, signature)
    return num_identical / len(texts)


def edited_pairs(
    vocabulary: list[str], low: float, high: float, number: int, num_words: int = WORDS_PER_TEXT
) -> tuple[list[str], list[str]]:
    """Return runs of real words, and edited copies, so that J is about uniform between `low` and `high`.

    A copy lacks the first e words and has e others at its end. Of s shingles, s - e are common: J = (s - e) / (s + e).
    """
    rng, originals, copies = random.Random(low), list[str](), list[str]()
    for _ in range(number):
        start = rng.randrange(len(vocabulary) - 2 * num_words)
        similarity = low + (high - low) * rng.random()
        edits = round(num_words * (1 - similarity) / (1 + similarity))
        text = vocabulary[start : start + num_words]
        originals.append(" ".join(text))
        copies.append(" ".join(text[edits:] + rng.choices(vocabulary, k=edits)))
    return originals, copies


def recall_by_decile(vocabulary: list[str]) -> list[dict[str, float]]:
    """Return for each tenth of J the number of pairs, the share that shares a band, and the share expected."""
    bands, rows = PARAMS.banding()
    deciles = []
    for decile in range(10):
        pairs = edited_pairs(vocabulary, decile / 10, (decile + 1) / 10, PAIRS_PER_DECILE)
        originals, copies = (text_array(texts) for texts in pairs)
        similarity = np.array(list(pair_similarities(originals, copies)))
        keys, copy_keys = (minhash.compute_band_keys(texts, PARAMS).keys for texts in (originals, copies))
        is_candidate = (keys == copy_keys).any(axis=0)
        in_decile = (similarity * 10).astype(int).clip(0, 9) == decile
        expected = recall(similarity[in_decile], bands, rows)
        row = {
            "decile": decile / 10,
            "pairs": int(in_decile.sum()),
            "found": is_candidate[in_decile].mean(),
            "expected": expected.mean(),
        }
        deciles.append(row)
    return deciles


def recall_at_threshold(vocabulary: list[str]) -> dict[str, float]:
    """Return by threshold t the share of pairs with t <= J < t + .02 that share a band, with the banding of t."""
    recalls = {}
    for threshold in THRESHOLDS:
        params, high = minhash.Params(threshold=threshold), threshold + THRESHOLD_MARGIN
        pairs = edited_pairs(vocabulary, threshold, high, PAIRS_PER_THRESHOLD, LONG_TEXT_WORDS)
        originals, copies = (text_array(texts) for texts in pairs)
        similarity = np.array(list(pair_similarities(originals, copies)))
        keys, copy_keys = (minhash.compute_band_keys(texts, params).keys for texts in (originals, copies))
        is_candidate = (keys == copy_keys).any(axis=0)
        in_range = (threshold <= similarity) & (similarity < high)
        recalls[str(threshold)] = float(is_candidate[in_range].mean())
        bands, rows = params.banding()
        print(
            f"threshold {threshold}: {bands} x {rows}, {int(in_range.sum())} pairs with J below {high:.2f}, "
            f"found {recalls[str(threshold)]:.4f}, expected {recall(similarity[in_range], bands, rows).mean():.4f}"
        )
    return recalls


def pair_similarities(first: pa.Array, second: pa.Array) -> Iterator[float]:
    """Yield the exact Jaccard similarity of each pair."""
    (a, ends_a), (b, ends_b) = shingles.shingle_sets(first, SHINGLE_SIZE), shingles.shingle_sets(second, SHINGLE_SIZE)
    for i in range(len(first)):
        yield clusters.jaccard(a[ends_a[i] : ends_a[i + 1]], b[ends_b[i] : ends_b[i + 1]])


def natural_pairs(texts: pa.Array) -> tuple[float, float, int]:
    """Return the shares of the pairs with J >= 0.8 that are candidates and in one cluster, and the number of pairs.

    The pairs are searched with 37 bands of 3 rows, which miss one such pair in 10^12.
    """
    wide = minhash.compute_band_keys(texts, minhash.Params(bands=37, rows=3))
    candidates = set[tuple[int, int]]()
    for key in wide.keys:
        rows = np.flatnonzero(wide.has_shingles)[np.argsort(key[wide.has_shingles], kind="stable")]
        for bucket in np.split(rows, np.flatnonzero(np.diff(key[rows])) + 1):
            candidates.update(combinations(sorted(bucket.tolist()), 2) if len(bucket) > 1 else ())
    shingle_set = functools.lru_cache(None)(lambda row: frozenset(shingles.shingles(texts[row].as_py(), SHINGLE_SIZE)))
    pairs = [pair for pair in sorted(candidates) if are_similar(shingle_set(pair[0]), shingle_set(pair[1]))]
    keys = minhash.compute_band_keys(texts, PARAMS).keys
    roots = cluster_texts(texts).roots
    num_candidates = sum((keys[:, i] == keys[:, j]).any() for i, j in pairs)
    return num_candidates / len(pairs), sum(roots[i] == roots[j] for i, j in pairs) / len(pairs), len(pairs)


def cluster_texts(texts: pa.Array) -> clusters.Clusters:
    """Return the clusters as `minhash.duplicates` makes them."""
    banded = minhash.compute_band_keys(texts, PARAMS)
    return clusters.connect_duplicates(
        banded.keys,
        banded.has_shingles,
        words.byte_lengths(texts),
        minhash.sets_reader(texts, PARAMS),
        PARAMS.threshold,
        PARAMS.max_bucket,
    )


def precision(texts: list[str]) -> tuple[float, float, int]:
    """Return the share of verified edges and of mere candidates that have J >= 0.8, and the number of edges."""
    array = text_array(texts)
    shingle_set = functools.lru_cache(None)(lambda row: frozenset(shingles.shingles(texts[row], SHINGLE_SIZE)))
    edges = cluster_texts(array).edges.tolist()
    banded = minhash.compute_band_keys(array, PARAMS)
    roots = clusters.connect_candidates(banded.keys, banded.has_shingles)
    candidates = [(i, root) for i, root in enumerate(roots.tolist()) if i != root]
    verified, unverified = (
        sum(are_similar(shingle_set(i), shingle_set(j)) for i, j in pairs) for pairs in (edges, candidates)
    )
    return verified / len(edges), unverified / len(candidates), len(edges)


def are_similar(first: frozenset[Any], second: frozenset[Any]) -> bool:
    """Whether J >= 0.8, in integers: common / union >= 4 / 5."""
    common = len(first & second)
    return 5 * common >= 4 * (len(first) + len(second) - common)


def measure_clustering(number: int) -> dict[str, float]:
    """Return documents per CPU second from signatures to clusters, and bytes of all arrays per document."""
    tracemalloc.start()
    signatures = planted_signatures(number)
    tracemalloc.reset_peak()
    start = time.process_time()
    keys = clusters.band_keys(signatures, *PARAMS.banding())
    roots = clusters.connect_candidates(keys, np.ones(number, np.bool_))
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    assert len(np.unique(roots)) == number - number // 5, "every planted copy is in the cluster of its original"
    return {"docs_per_s": number / seconds, "bytes_per_doc": peak / number}


def planted_signatures(number: int) -> UInt32Array:
    """Return random signatures, uint32[number, 112]. The last fifth are copies with a tenth of their bands changed."""
    generator = np.random.default_rng(0)
    signatures = np.empty((number, 112), np.uint32)
    for start in range(0, number, 50_000):
        part = signatures[start : start + 50_000]
        part[:] = generator.integers(0, 1 << 32, part.shape, np.uint32)
    num_copies = number // 5
    for start in range(number - num_copies, number, 50_000):
        stop = min(start + 50_000, number)
        signatures[start:stop] = signatures[start - number + num_copies : stop - number + num_copies]
        signatures[start:stop, generator.integers(0, 112, 2)] += np.uint32(1)
    return signatures


def peer_rates(texts: pa.Array) -> dict[str, float]:
    """Return the MB of text signed per CPU second by each of the other libraries."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text": texts}), Path(folder) / "texts.parquet")
        script = Path(__file__).with_name("minhash_peers.py")
        results = peers.run(peers.python("curation", PEERS), script, Path(folder) / "texts.parquet", folder)
    return {name: size / 1e6 / seconds for name, (size, seconds) in results.items()}


def main() -> None:
    """Print tables, and the results as one line of JSON at the end."""
    print(corpora.source())
    documents = corpora.english(SPEED_BYTES // 2) + corpora.documentation(SPEED_BYTES // 2)
    random.Random(0).shuffle(documents)
    texts = text_array(documents)
    rates = {**peer_rates(texts), "ours": signature_rate(texts)}
    for name, rate in sorted(rates.items(), key=lambda item: item[1]):
        print(f"{name:14} {rate:8.2f} MB per CPU second")
    identical = identical_share(texts)
    vocabulary = [word for text in documents for word in words.tokens(text[:20_000])][:2_000_000]
    deciles = recall_by_decile(vocabulary)
    for row in deciles:
        print("J from {decile:.1f}: {pairs:6} pairs, found {found:.4f}, expected {expected:.4f}".format(**row))
    threshold_recalls = recall_at_threshold(vocabulary)
    candidate_share, joined_share, num_pairs = natural_pairs(text_array(corpora.documentation(TRUTH_BYTES, 1)))
    print(f"{num_pairs} real pairs with J >= 0.8: candidates {candidate_share:.4f}, in one cluster {joined_share:.4f}")
    mixed = [
        text for low in (0.6, 0.7, 0.8) for side in edited_pairs(vocabulary, low, low + 0.1, 5000) for text in side
    ]
    verified, unverified, num_edges = precision(mixed)
    print(f"{num_edges} edges: {verified:.4f} correct; without verification {unverified:.4f}")
    command = [sys.executable, "-m", "benchmarks.minhash", "cluster"]
    clustering = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(
        "{:,} signatures: {docs_per_s:,.0f} documents/s, {bytes_per_doc:.0f} bytes per document".format(
            NUM_SIGNATURES, **clustering
        )
    )
    result = {
        "vs_datasketch": rates["ours"] / rates["datasketch"],
        "vs_rensa": rates["ours"] / max(rates["rensa_r"], rates["rensa_matrix"], rates["rensa_c"]),
        "vs_datatrove": rates["ours"] / rates["datatrove"],
        "mb_per_cpu_s": rates["ours"],
        "identical_share": identical,
        "max_recall_error": max(abs(row["found"] - row["expected"]) for row in deciles),
        "recall_at_threshold": threshold_recalls,
        "recall_j80": joined_share,
        "precision": verified,
        "cluster_docs_per_s": clustering["docs_per_s"],
        "cluster_bytes_per_doc": clustering["bytes_per_doc"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:] == ["cluster"]:
        print(json.dumps(measure_clustering(NUM_SIGNATURES)))
    else:
        main()
