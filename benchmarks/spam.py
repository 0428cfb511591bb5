"""The spam classifier on SMS Spam: F1 by 5-fold cross-validation, and how fast it judges; the rules beside it.

    make bench NAME=spam

CPU seconds of one core, from text in memory to probabilities. Only the public set will do: nothing is measured without.
"""

import gzip
import json
import sys
import time

import numpy as np
import pyarrow as pa

from benchmarks import corpora
from tasks.curation import filtering, shards
from tasks.curation.classifier import classifier
from tasks.curation.filters import spam
from tasks.curation.signals import signals

SET = corpora.DATA / "spam_sms_en" / "sms_spam.jsonl.gz"


def messages() -> tuple[list[str], classifier.Labels]:
    """Texts, and whether each is spam."""
    with gzip.open(SET, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], np.array([row["label"] == "spam" for row in rows])


def rate(judge: classifier.Classifier, texts: pa.Array) -> float:
    """MB per CPU-second, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        judge.probabilities(texts)
        seconds.append(time.process_time() - start)
    return float(texts.nbytes / 1e6 / min(seconds))


def by_rules(texts: pa.Array) -> classifier.Labels:
    """What the filter `spam` drops as it comes, without training."""
    lists = shards.lists({"en": filtering.Language(profile="en")})
    found = signals.measure(texts, lists.stop_words, lists.phrases)
    said = spam.drop_reasons(found, spam.Params.model_validate({}))
    return np.any([verdict.dropped for verdict in said.values()], axis=0)  # type: ignore[union-attr, no-any-return]


def main() -> None:
    """Print a table, and the results as one line of JSON last."""
    if not SET.is_file():
        sys.exit(f"{SET} is absent: there is nothing to measure F1 on.")
    print(corpora.source())
    texts, labels = messages()
    array = pa.array(texts, pa.large_string())
    start = time.process_time()
    judge, _ = classifier.train(array, labels, classifier.Params())
    seconds = time.process_time() - start
    probabilities = classifier.cross_validate(array, labels, classifier.Params())
    found = probabilities > 0.5
    error = float(np.mean((probabilities - labels) ** 2))
    rules = by_rules(array)
    pages = pa.array(corpora.english(16 << 20), pa.large_string())
    body = {
        "f1": classifier.f1(found, labels),
        "mb_per_cpu_s": rate(judge, pages),
        "mb_per_cpu_s_short": rate(judge, array),
        "precision": float(labels[found].mean()),
        "recall": float(found[labels].mean()),
        "brier": error,
        "train_cpu_s": seconds,
        "f1_rules": classifier.f1(rules, labels),
        "messages": len(labels),
    }
    for name, value in body.items():
        print(f"{name:>20} {value:.4f}")
    print(json.dumps(body))


if __name__ == "__main__":
    main()
