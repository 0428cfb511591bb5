"""Planted leaks: every one of 1,000 is found and named, at what speed, and nothing else is.

make bench NAME=contamination
"""

import json
import random
import time

import pyarrow as pa

from benchmarks import corpora
from tasks.curation.contamination import contamination

LEAKS, EXAMPLES, NUM_BYTES, LENGTH = 1000, 5000, 128 << 20, 13


def examples(dice: random.Random) -> list[str]:
    """Questions of 60 words of English each, half of them, and the other half in made-up words."""
    words = [word for text in corpora.english(2 << 20) for word in text.split() if word.isalpha()]
    made_up = [f"{dice.choice(words)}{dice.randrange(100)}" for _ in range(3000)]
    return [" ".join(dice.choices(words if i % 2 else made_up, k=60)) for i in range(EXAMPLES)]


def main() -> None:
    """Print what was found, and one JSON line last."""
    dice = random.Random(0)
    print(corpora.source())
    documents, questions = corpora.documentation(NUM_BYTES), examples(dice)
    texts = pa.array(documents, pa.large_string())
    names = tuple(f"question {i}" for i in range(EXAMPLES))
    quiz = contamination.EvaluationSet("quiz", names, pa.array(questions, pa.large_string()))
    index = contamination.build_index([quiz], contamination.Params())
    before = {hit.row for hit in contamination.scan(texts, index)}
    rows = sorted(dice.sample([row for row in range(len(documents)) if row not in before], LEAKS))
    for leak, row in enumerate(rows):
        parts, start = documents[row].split(" "), dice.randrange(60 - LENGTH)
        at = dice.randrange(len(parts) + 1)
        parts[at:at] = questions[leak].split()[start : start + LENGTH]
        documents[row] = " ".join(parts)
    texts = pa.array(documents, pa.large_string())
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        hits = list(contamination.scan(texts, index))
        seconds.append(time.process_time() - begin)
    named = {hit.row: hit.example_id for hit in hits}
    found = sum(named.get(row) == names[leak] for leak, row in enumerate(rows))
    rate = texts.nbytes / 1e6 / min(seconds)
    print(f"{len(documents)} documents, {texts.nbytes / 1e6:.0f} MB, against {len(index.entries)} runs")
    print(f"found and rightly named {found} of {LEAKS}, others {len(hits) - found}, before planting {len(before)}")
    print(json.dumps({"leaks_planted": LEAKS, "leaks_found": found, "others": len(hits) - found, "mb_per_cpu_s": rate}))


if __name__ == "__main__":
    main()
