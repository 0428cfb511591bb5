"""Contamination with 1,000 planted leaks: how many are found and named correctly, how many others, and how fast.

This is measured twice: on documents as they are, and with boilerplate (a license, footers, the template of a prompt, a
quotation) in every second document and in every second example, so that leaks and boilerplate meet.

make bench NAME=contamination
"""

import json
import random
import time

import pyarrow as pa

from benchmarks import corpora
from tasks.curation.contamination import contamination, leaks

LEAKS, EXAMPLES, NUM_BYTES = 1000, 5000, 128 << 20
EXAMPLE_WORDS, LEAK_WORDS = 60, 13
RUNS = 3
BOILERPLATE = (
    "Licensed under the Example License, Version 2.0 (the License); you may not use this file except in compliance "
    "with the License. You may obtain a copy of the License at the office of the example foundation.",
    "All rights reserved. No part of this page may be copied without the written permission of the example library.",
    "You are a professional translator. Translate the following sentence into Chinese, keep the tone of the original, "
    "and answer with the translation only, without any explanation.",
    "The reader who borrows a book must bring it back before the leaves fall, as the old sign in the hall reads.",
    "本网站所有内容均由示例镇图书馆提供，未经书面许可不得转载或者用于任何商业用途，违者必究，责任编辑小艾。",
)


def examples(rng: random.Random) -> list[str]:
    """Return questions of 60 random words each: half of them in English words, half in invented words."""
    words = [word for text in corpora.english(2 << 20) for word in text.split() if word.isalpha()]
    invented = [f"{rng.choice(words)}{rng.randrange(100)}" for _ in range(3000)]
    return [" ".join(rng.choices(words if i % 2 else invented, k=EXAMPLE_WORDS)) for i in range(EXAMPLES)]


def with_boilerplate(texts: list[str], rng: random.Random) -> list[str]:
    """Add a passage before or after every second text."""
    pairs = ((rng.choice(BOILERPLATE), text) for text in texts)
    return ["\n".join(pair if i % 4 else pair[::-1]) if i % 2 else pair[1] for i, pair in enumerate(pairs)]


def measure(documents: list[str], questions: list[str], held_out: list[str], rng: random.Random) -> dict[str, float]:
    """Plant parts of `questions` in documents, search these for parts of `held_out`, and return the results."""
    texts, names = pa.array(documents, pa.large_string()), tuple(f"question {i}" for i in range(EXAMPLES))
    questions_set = contamination.EvaluationSet("quiz", names, pa.array(held_out, pa.large_string()))
    index = contamination.build_index([questions_set], contamination.Params())
    rows_before = {leak.row for leak in leaks.scan(texts, index)}
    rows = sorted(rng.sample([row for row in range(len(documents)) if row not in rows_before], LEAKS))
    planted = list(documents)
    for leak, row in enumerate(rows):
        words, start = documents[row].split(" "), rng.randrange(EXAMPLE_WORDS - LEAK_WORDS)
        position = rng.randrange(len(words) + 1)
        words[position:position] = questions[leak].split()[start : start + LEAK_WORDS]
        planted[row] = " ".join(words)
    texts = pa.array(planted, pa.large_string())
    seconds = []
    for _ in range(RUNS):
        begin = time.process_time()
        contaminated = list(leaks.scan(texts, index))
        seconds.append(time.process_time() - begin)
    example_of_row = {leak.row: leak.hits[0].example_id for leak in contaminated}
    num_correct = sum(example_of_row.get(row) == names[leak] for leak, row in enumerate(rows))
    print(f"{len(documents)} documents, {texts.nbytes / 1e6:.0f} MB, compared with {len(index.entries)} n-grams")
    others = len(contaminated) - num_correct
    print(f"correct {num_correct} of {LEAKS}, other hits {others}, before planting {len(rows_before)}")
    rate = texts.nbytes / 1e6 / min(seconds)
    return {"leaks_found": num_correct, "others": others, "mb_per_cpu_s": rate}


def main() -> None:
    """Print the results, and one line of JSON at the end."""
    rng = random.Random(0)
    print(corpora.source())
    documents, questions = corpora.documentation(NUM_BYTES), examples(rng)
    plain = measure(documents, questions, questions, rng)
    print("with boilerplate:")
    held_out = with_boilerplate(questions, rng)
    mixed = measure(with_boilerplate(documents, rng), questions, held_out, rng)
    body = {"leaks_planted": LEAKS, **plain, **{f"boilerplate_{key}": value for key, value in mixed.items()}}
    print(json.dumps(body))


if __name__ == "__main__":
    main()
