"""The spam classifier on the SMS Spam Collection: F1 by 5-fold cross-validation, and speed; for comparison, the rules.

    make bench NAME=spam

Times are CPU seconds of one core, from text in memory to probabilities. The benchmark needs the public data set.
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
    """Return the texts, and whether each is spam."""
    with gzip.open(SET, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], np.array([row["label"] == "spam" for row in rows])


def scoring_rate(trained: classifier.Classifier, texts: pa.Array) -> float:
    """Return the MB of text scored per CPU second, the best of three runs."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        trained.probabilities(texts)
        seconds.append(time.process_time() - start)
    return float(texts.nbytes / 1e6 / min(seconds))


def filtered_by_rules(texts: pa.Array) -> classifier.Labels:
    """Return which texts the filter `spam` drops with its default settings, without a classifier."""
    lists = shards.word_lists({"en": filtering.Language(profile="en")})
    measured = signals.measure(texts, lists.stop_words, lists.phrases)
    verdicts = spam.drop_reasons(measured, spam.Params.model_validate({}))
    return np.any([verdict.dropped for verdict in verdicts.values()], axis=0)  # type: ignore[union-attr, no-any-return]


def main() -> None:
    """Print a table, and the results as one line of JSON at the end."""
    if not SET.is_file():
        sys.exit(f"The data set {SET} is missing, and F1 cannot be measured without it.")
    print(corpora.source())
    texts, labels = messages()
    array = pa.array(texts, pa.large_string())
    start = time.process_time()
    trained, _ = classifier.train(array, labels, classifier.Params())
    seconds = time.process_time() - start
    probabilities = classifier.cross_validate(array, labels, classifier.Params())
    predictions = probabilities > 0.5
    brier = float(np.mean((probabilities - labels) ** 2))
    rules = filtered_by_rules(array)
    pages = pa.array(corpora.english(16 << 20), pa.large_string())
    body = {
        "f1": classifier.f1(predictions, labels),
        "mb_per_cpu_s": scoring_rate(trained, pages),
        "mb_per_cpu_s_short": scoring_rate(trained, array),
        "precision": float(labels[predictions].mean()),
        "recall": float(predictions[labels].mean()),
        "brier": brier,
        "train_cpu_s": seconds,
        "f1_rules": classifier.f1(rules, labels),
        "messages": len(labels),
    }
    for name, value in body.items():
        print(f"{name:>20} {value:.4f}")
    print(json.dumps(body))


if __name__ == "__main__":
    main()
