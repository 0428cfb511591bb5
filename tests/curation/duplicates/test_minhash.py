"""Near-duplicates: small corpora with known clusters, in any order and any division into chunks."""

import random

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.curation.duplicates import clusters, minhash
from tasks.curation.text import shingles
from tasks.curation.text import words as word_hashes

SIZE = 120


def document(seed: int, size: int = SIZE) -> list[str]:
    """Return random words."""
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(size)]


def edited(words: list[str], *places: int) -> str:
    """Replace words. An edit that is far from others changes 5 of the 116 shingles of a document."""
    return " ".join("edited" if i in places else word for i, word in enumerate(words))


def find_duplicates(
    texts: list[str], priority: list[int] | None = None, **params: object
) -> tuple[list[int], list[int]]:
    """Return for each text the row that represents it (-1 where it is kept), and the size of its cluster."""
    array = pa.array(texts, pa.large_string())
    rows, sizes = minhash.duplicates(array, minhash.Params(**params), np.array(priority or [0] * len(texts)))
    return rows.tolist(), sizes.tolist()


def test_a_copy_with_one_edit_is_found_and_a_different_text_is_not() -> None:
    """J = 111 / 121 = 0.917 for the edit; 0 for the other."""
    words = document(1)
    assert find_duplicates([edited(words), " ".join(document(2)), edited(words, 60)]) == ([2, -1, -1], [2, 1, 2])


def test_the_verified_threshold_is_exact() -> None:
    """Two edits: 106 common of 126 = 0.8413."""
    words = document(3)
    pair = [edited(words), edited(words, 40, 80)]
    assert find_duplicates(pair, threshold=0.841, bands=112, rows=1)[0].count(-1) == 1
    assert find_duplicates(pair, threshold=0.842, bands=112, rows=1)[0].count(-1) == 2


def test_documents_without_shingles_are_left_alone() -> None:
    assert find_duplicates(["", "one two", "one two", "   ", "three four five six"]) == ([-1] * 5, [1] * 5)


def test_priority_then_length_then_first_row_chooses() -> None:
    words = document(4)
    same, longer = edited(words), edited(words) + " end"
    assert find_duplicates([same, same, longer])[0] == [2, 2, -1]
    assert find_duplicates([same, same, longer], [0, 1, 0])[0] == [1, -1, 1]
    assert find_duplicates([same, same])[0] == [-1, 0]


def test_chains_are_one_cluster() -> None:
    """Each link has J = 0.917, the ends 0.841, less than 0.85. They are connected through the middle."""
    words = document(5)
    chain = [edited(words), edited(words, 40), edited(words, 40, 80)]
    assert find_duplicates(chain, threshold=0.85, bands=112, rows=1)[1] == [3, 3, 3]
    assert find_duplicates([chain[0], chain[2]], threshold=0.85, bands=112, rows=1)[1] == [1, 1]


def families() -> tuple[list[str], list[str]]:
    """Return groups of similar texts, and an id for each text."""
    rng = random.Random(0)
    texts = []
    for seed in range(40):
        words = document(100 + seed, rng.randrange(20, 200))
        texts += [edited(words, *rng.sample(range(len(words)), rng.randrange(3))) for _ in range(rng.randrange(1, 6))]
    return texts, [f"{rng.random():.12f}" for _ in texts]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk_rows", [7, 4096])
def test_order_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, seed: int, chunk_rows: int) -> None:
    texts, ids = families()

    def kept_ids(order: list[int], chunks: int, threads: int) -> set[str]:
        arrays = [pa.array([texts[i] for i in part], pa.large_string()) for part in np.array_split(order, chunks)]
        names = pa.chunked_array([pa.array([ids[i] for i in part]) for part in np.array_split(order, chunks)])
        rows, _ = minhash.duplicates(
            pa.chunked_array(arrays), minhash.Params(max_bucket=3), np.zeros(len(texts)), names, threads
        )
        return {ids[i] for i, row in zip(order, rows, strict=True) if row < 0}

    expected = kept_ids(list(range(len(texts))), 1, 1)
    assert 40 <= len(expected) < len(texts)
    monkeypatch.setattr(word_hashes, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(clusters, "BATCH_BYTES", 500)
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    assert kept_ids(order, 1 + 3 * seed, 1 + seed) == expected


def test_clusters_are_the_components_of_all_verified_candidate_pairs() -> None:
    texts, _ = families()
    array = pa.array(texts, pa.large_string())
    params = minhash.Params(threshold=0.7, bands=20, rows=5)
    banded = minhash.compute_band_keys(array, params)
    sets = [{*shingles.shingles(text, 5)} for text in texts]
    roots = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            is_candidate = (banded.keys[:, i] == banded.keys[:, j]).any() and sets[i]
            if is_candidate and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.7:
                roots = [roots[j] if root == roots[i] else root for root in roots]
    _, sizes = minhash.duplicates(array, params, np.zeros(len(texts)))
    assert sizes.tolist() == [roots.count(root) for root in roots]


def test_edges_are_verified_pairs() -> None:
    texts, _ = families()
    array = pa.array(texts, pa.large_string())
    banded = minhash.compute_band_keys(array, minhash.Params())
    connected = clusters.connect_duplicates(
        banded.keys,
        banded.has_shingles,
        np.ones(len(texts), np.int64),
        lambda rows: minhash.shingle_sets(array, 5, rows),
        0.8,
        9,
    )
    sets = [{*shingles.shingles(text, 5)} for text in texts]
    assert len(connected.edges)
    assert all(len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.8 for i, j in connected.edges)


def test_the_threshold_alone_decides_which_pairs_are_found() -> None:
    """Five edits give J = 91 / 141 = .645, eight 76 / 156 = .487. 14 bands of 8 rows find 35 % and 4 % of them."""
    rng = random.Random(0)
    for threshold, edits in ((0.62, 5), (0.47, 8)):
        texts = []
        for seed in range(200):
            words = document(1000 + seed)
            texts += [edited(words), edited(words, *rng.sample(range(5, 115, 6), edits))]
        array = pa.array(texts, pa.large_string())
        hashes, offsets = shingles.shingle_sets(array, 5)
        sets = [hashes[offsets[i] : offsets[i + 1]] for i in range(len(texts))]
        is_similar = np.array([clusters.jaccard(sets[i], sets[i + 1]) >= threshold for i in range(0, len(texts), 2)])
        rows, _ = find_duplicates(texts, threshold=threshold)
        is_connected = np.array([max(rows[i : i + 2]) >= 0 for i in range(0, len(texts), 2)])
        assert is_similar.sum() >= 100
        assert is_connected[is_similar].mean() >= 0.95
        assert not is_connected[~is_similar].any()


def test_bad_params_are_refused() -> None:
    with pytest.raises(ValidationError, match="more than num_permutations"):
        minhash.Params(bands=20, rows=8, num_permutations=112)
    with pytest.raises(ValidationError, match="both"):
        minhash.Params(bands=14)


def test_nothing_to_compare() -> None:
    assert find_duplicates([]) == ([], [])
