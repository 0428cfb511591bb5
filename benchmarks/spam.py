"""The default filter `spam` on data that its classifier never saw: recall, honest text dropped, speed.

    make bench NAME=spam

No set is judged by a classifier that was trained on it or on a text that is equal except for digits, punctuation and
case: for the SMS and the YouTube collection, the shipped classifier is trained again without that set. The honest text
of `ham_dropped` is that of both collections, news and reviews. The label "honest" of spam_sms_zh is not among them:
it contains advertising that the same set also labels as spam (invoices for sale, phone offers), and is reported alone.
Times are CPU seconds of one core, from text in memory to probabilities. The benchmark needs the public data sets.
"""

import json
import sys
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from benchmarks import corpora
from tasks.curation import filtering, shards
from tasks.curation.classifier import classifier, spam_examples
from tasks.curation.filters import spam
from tasks.curation.signals import signals

Examples = list[spam_examples.Example]


def chinese_sms() -> Examples:
    """Chinese SMS with labels; spam is label 1."""
    rows = map(json.loads, corpora.lines("spam_sms_zh/*.jsonl.gz"))
    return [(row["text"], str(row["label"]) == "1") for row in rows if row["text"].strip()]


def honest_texts() -> dict[str, list[str]]:
    """Texts without spam that the classifier was not trained on."""
    flores = corpora.DATA / "flores_devtest"
    pages = list(corpora.lines("web_text_en/dj_*.jsonl.gz"))
    return {
        "news_zh": (flores / "devtest.zh").read_text(encoding="utf-8").splitlines(),
        "news_en": (flores / "devtest.en").read_text(encoding="utf-8").splitlines(),
        "titles_zh": [line.split("\t")[0] for line in corpora.lines("text_zh/thucnews*.gz")],
        "web_zh": list(corpora.lines("text_zh/CLUE*.gz")),
        "reviews_zh": [line.split("\t", 1)[-1] for line in corpora.lines("text_zh/chnsenticorp*.gz")][1:],
        "web_en": [json.loads(line)["text"] for line in pages],
        "answers_en": [json.loads(line)["output"] for line in corpora.lines("alpaca_en/*.gz")][::10],
    }


def without(examples: Examples, excluded: Examples) -> Examples:
    """Return the examples that are not equal to an excluded one except for digits, punctuation and case."""
    groups = classifier.text_groups(spam_examples.arrays([*examples, *excluded])[0])
    other = set(groups[len(examples) :].tolist())
    return [example for example, group in zip(examples, groups.tolist(), strict=False) if group not in other]


def train(*parts: Examples) -> classifier.Classifier:
    """Train as the shipped classifier is trained."""
    return classifier.train(
        *spam_examples.arrays([example for part in parts for example in part]), spam_examples.PARAMS
    )[0]


def dropped(texts: Sequence[str], trained: classifier.Classifier | None) -> classifier.Labels:
    """Return which texts the filter drops. trained: instead of the shipped classifier; None: by rules alone."""
    array, languages = pa.array(texts, pa.large_string()), {c: filtering.Language(profile=c) for c in ("en", "zh")}
    lists, params = shards.word_lists(languages), spam.Params.model_validate({})
    measured = signals.measure(array, lists.stop_words, lists.phrases)
    probabilities = trained.probabilities(array) if trained else np.zeros(len(texts))
    verdicts = spam.drop_reasons(measured, params, {"probability": probabilities})
    return np.any([verdict.dropped for verdict in verdicts.values()], axis=0)  # type: ignore[union-attr, no-any-return]


def scoring_rate(trained: classifier.Classifier, texts: pa.Array) -> float:
    """Return the MB of text scored per CPU second, the best of three runs."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        trained.probabilities(texts)
        seconds.append(time.process_time() - start)
    return float(texts.nbytes / 1e6 / min(seconds))


def main() -> None:
    """Print a table, and the results as one line of JSON at the end."""
    sms, youtube = spam_examples.sms(corpora.DATA), spam_examples.youtube(corpora.DATA)
    if not sms or not youtube:
        sys.exit(f"not measured: {corpora.DATA} does not contain the sets of spam.")
    shipped = classifier.load(spam_examples.FILE)
    written, honest = spam_examples.written(), spam_examples.honest(corpora.DATA)
    trained = {
        "sms_zh": (chinese_sms(), shipped),
        "sms_en": (sms, train(*(without(part, sms) for part in (youtube, written, honest)))),
        "youtube_en": (youtube, train(*(without(part, youtube) for part in (sms, written, honest)))),
    }
    print(f"{'set':>12} {'spam':>7} {'recall':>7} {'by rules':>8} {'honest':>7} {'dropped':>8}")
    recalls, honest_drops = {}, []
    for name, (examples, unseen) in trained.items():
        texts, labels = [text for text, _ in examples], np.array([label for _, label in examples])
        all_rules, rules = dropped(texts, unseen), dropped(texts, None)
        recalls[name] = float(all_rules[labels].mean())
        share, rules_share = all_rules[~labels].mean(), rules[labels].mean()
        if name != "sms_zh":
            honest_drops.append(all_rules[~labels])
        print(
            f"{name:>12} {labels.sum():>7} {recalls[name]:>7.3f} {rules_share:>8.3f} {(~labels).sum():>7} {share:>8.4f}"
        )
        recalls[f"ham_{name}"] = float(share)
    for name, texts in honest_texts().items():
        honest_drops.append(dropped(texts, shipped))
        print(f"{name:>12} {'':>7} {'':>7} {'':>8} {len(texts):>7} {honest_drops[-1].mean():>8.4f}")
    english = [recalls["sms_en"], recalls["youtube_en"]]
    body = {
        "recall_zh": recalls["sms_zh"],
        "recall_en": float(np.average(english, weights=[sum(label for _, label in some) for some in (sms, youtube)])),
        "recall_sms_en": english[0],
        "recall_youtube_en": english[1],
        "ham_dropped": float(np.concatenate(honest_drops).mean()),
        "ham_dropped_max": float(max(drop.mean() for drop in honest_drops)),
        "ham_dropped_sms_zh": recalls["ham_sms_zh"],
        "mb_per_cpu_s": scoring_rate(shipped, pa.array(corpora.english(16 << 20), pa.large_string())),
        "mb_per_cpu_s_short": scoring_rate(shipped, spam_examples.arrays(sms)[0]),
    }
    print(json.dumps(body))


if __name__ == "__main__":
    main()
