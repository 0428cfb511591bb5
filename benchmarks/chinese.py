"""Chinese near-duplicates with small edits, in the other script or in other widths; clean text that is kept.

make bench NAME=chinese
"""

import functools
import json
import random

import opencc
import pyarrow as pa

from benchmarks import corpora, filters
from tasks.curation.duplicates import clusters, minhash
from tasks.curation.text import shingles, words

NUM_BYTES, MIN_CHARACTERS, EDITED = 8 << 20, 100, 0.01
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}


def edited(texts: list[str], share: float) -> list[str]:
    """Each text with a share of its characters, at least one, replaced by others of the corpus."""
    dice, characters = random.Random(0), "".join(texts)
    copies = []
    for text in texts:
        changed = list(text)
        for place in dice.sample(range(len(text)), max(1, round(share * len(text)))):
            changed[place] = dice.choice(characters)
        copies.append("".join(changed))
    return copies


def recall(texts: list[str], copies: list[str]) -> tuple[float, int]:
    """The share of copies in one cluster with their text, and the number of edges whose J is in truth below 0.8."""
    both = texts + copies
    array = pa.array(both, pa.large_string())
    params = minhash.Params()
    banded = minhash.compute_band_keys(array, params)
    sets_of = functools.partial(minhash.shingle_sets, array, params.shingle_size)
    clustering = clusters.connect_duplicates(
        banded.keys, banded.has_shingles, words.byte_lengths(array), sets_of, params.threshold, params.max_bucket
    )
    together = sum(clustering.roots[i] == clustering.roots[len(texts) + i] for i in range(len(texts)))
    false = 0
    for i, j in clustering.edges.tolist():
        one, two = (frozenset(shingles.shingles(both[row], params.shingle_size)) for row in (i, j))
        false += len(one & two) < params.threshold * len(one | two)
    return together / len(texts), false


def duplicates() -> dict[str, float]:
    """Copies found, by kind."""
    texts = sorted(set(corpora.chinese(NUM_BYTES, MIN_CHARACTERS)))
    traditional = opencc.OpenCC("s2t")
    kinds = {
        "edited": edited(texts, EDITED),
        "traditional": [traditional.convert(text) for text in texts],
        "full-width": [text.translate(WIDE) for text in texts],
    }
    results = {kind: recall(texts, copies) for kind, copies in kinds.items()}
    for kind, (share, false) in results.items():
        print(f"{kind:12} copies of {len(texts)} texts: found {share:.4f}, false pairs {false}")
    folded = min(results["traditional"][0], results["full-width"][0])
    return {
        "edited_found": results["edited"][0],
        "folded_found": folded,
        "false_pairs": sum(false for _, false in results.values()),
    }


def kept() -> dict[str, float]:
    """The share of clean Chinese text that each filter of the profile `zh` keeps."""
    texts = corpora.clean_chinese()
    _, reasons = filters.run_ours(texts, "zh")
    shares = {
        f"kept_{name}": sum(not row[i] for row in reasons) / len(reasons) for i, name in enumerate(filters.FILTERS)
    }
    print(f"of {len(texts)} clean texts " + ", ".join(f"{name} {share:.4f}" for name, share in shares.items()))
    return shares


def main() -> None:
    """Print a table, and one JSON line last."""
    print(corpora.source())
    print(json.dumps(duplicates() | kept()))


if __name__ == "__main__":
    main()
