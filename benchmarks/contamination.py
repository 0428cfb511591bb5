"""Contamination with 1,000 planted leaks: how many are found and named correctly, how many others, and how fast.

make bench NAME=contamination
"""

import json
import random
import time

import pyarrow as pa

from benchmarks import corpora
from tasks.curation.contamination import contamination

LEAKS, EXAMPLES, NUM_BYTES = 1000, 5000, 128 << 20
EXAMPLE_WORDS, LEAK_WORDS = 60, 13
RUNS = 3


def examples(rng: random.Random) -> list[str]:
    """Return questions of 60 random words each: half of them in English words, half in invented words."""
    words = [word for text in corpora.english(2 << 20) for word in text.split() if word.isalpha()]
    invented = [f"{rng.choice(words)}{rng.randrange(100)}" for _ in range(3000)]
    return [" ".join(rng.choices(words if i % 2 else invented, k=EXAMPLE_WORDS)) for i in range(EXAMPLES)]


def main() -> None:
    """Print the results, and one line of JSON at the end."""
    rng = random.Random(0)
    print(corpora.source())
    documents, questions = corpora.documentation(NUM_BYTES), examples(rng)
    texts = pa.array(documents, pa.large_string())
    names = tuple(f"question {i}" for i in range(EXAMPLES))
    questions_set = contamination.EvaluationSet("quiz", names, pa.array(questions, pa.large_string()))
    index = contamination.build_index([questions_set], contamination.Params())
    rows_before = {hit.row for hit in contamination.scan(texts, index)}
    rows = sorted(rng.sample([row for row in range(len(documents)) if row not in rows_before], LEAKS))
    for leak, row in enumerate(rows):
        words, start = documents[row].split(" "), rng.randrange(EXAMPLE_WORDS - LEAK_WORDS)
        position = rng.randrange(len(words) + 1)
        words[position:position] = questions[leak].split()[start : start + LEAK_WORDS]
        documents[row] = " ".join(words)
    texts = pa.array(documents, pa.large_string())
    seconds = []
    for _ in range(RUNS):
        begin = time.process_time()
        hits = list(contamination.scan(texts, index))
        seconds.append(time.process_time() - begin)
    example_of_row = {hit.row: hit.example_id for hit in hits}
    num_correct = sum(example_of_row.get(row) == names[leak] for leak, row in enumerate(rows))
    num_others = len(hits) - num_correct
    rate = texts.nbytes / 1e6 / min(seconds)
    print(f"{len(documents)} documents, {texts.nbytes / 1e6:.0f} MB, compared with {len(index.entries)} n-grams")
    print(f"correct {num_correct} of {LEAKS}, other hits {num_others}, hits before planting {len(rows_before)}")
    body = {"leaks_planted": LEAKS, "leaks_found": num_correct, "others": num_others, "mb_per_cpu_s": rate}
    print(json.dumps(body))


if __name__ == "__main__":
    main()
