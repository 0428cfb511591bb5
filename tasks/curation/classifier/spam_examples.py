"""The training examples of the shipped spam classifier (spam.safetensors): written ones, and public sets with licenses.

`python -m flows.spam_classifier` trains it again; docs/NOTICE.md names the sources and their licenses. Public sets are
read from a folder outside the project. Without them, the classifier is trained on the written examples alone.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from tasks.curation.classifier import classifier, spam_honest
from tasks.curation.classifier.classifier import Labels, Params

FILE = Path(__file__).parent / "spam.safetensors"
PARAMS = Params(bits=16, max_characters=1_000, penalty=0.6, shape=1.5, epochs=6, folds=3)
NUM_WRITTEN = 12_000  # examples of each label and language
SPAM, HONEST = True, False

Example = tuple[str, bool]
"""A text, and whether it is spam."""

_SLOT = re.compile(r"\{(\w+)\}")


def train(data: Path, output: Path | None) -> str:
    """Train the shipped classifier, and return a line about its examples. data: folder of the public sets."""
    sets = {
        "written": written(),
        "SMS Spam": sms(data),
        "YouTube Spam": youtube(data),
        "honest": honest(data),
    }
    trained, _ = classifier.train(*arrays([example for some in sets.values() for example in some]), PARAMS)
    trained.save(output or FILE)
    return "trained on " + ", ".join(f"{len(some):,} {name}" for name, some in sets.items()) + " texts"


def written(number: int = NUM_WRITTEN) -> list[Example]:
    """Return `number` examples of spam and as many honest ones in Chinese, and the same in English."""
    examples: list[Example] = []
    for seed, language in enumerate(("zh", "en"), start=1):
        path = Path(__file__).parent / f"spam_phrases_{language}.yaml"
        phrases = yaml.safe_load(path.read_text(encoding="utf-8"))
        generator, separators = random.Random(seed), ("",) if language == "zh" else (". ", " ", ", ")
        for label, topics in ((SPAM, phrases["spam"]), (HONEST, phrases["honest"])):
            topic_lists = list(topics.values())
            for row in range(number):
                lists = topic_lists[row % len(topic_lists)]
                examples.append((_compose(lists, phrases["words"], separators, generator), label))
    return examples


def sms(folder: Path) -> list[Example]:
    """Return the SMS Spam Collection (CC BY 4.0); nothing where it is absent."""
    return _labeled(folder, "spam_sms_en/sms_spam.jsonl.gz")


def youtube(folder: Path) -> list[Example]:
    """Return the YouTube Spam Collection (CC BY 4.0); nothing where it is absent."""
    return _labeled(folder, "spam_youtube_en/youtube_spam.jsonl.gz")


def honest(folder: Path) -> list[Example]:
    """Return texts without spam of public sets and packages whose licenses permit this use."""
    return [(text, HONEST) for text in spam_honest.texts(folder)]


def arrays(examples: Sequence[Example]) -> tuple[pa.Array, Labels]:
    """Return texts (an array of large_string) and labels, as `classifier.train` takes them."""
    return pa.array([text for text, _ in examples], pa.large_string()), np.array([label for _, label in examples])


def _compose(
    lists: list[list[str]], words: dict[str, list[str]], separators: Sequence[str], generator: random.Random
) -> str:
    """Return one phrase of each list; the first and the last may be absent, and those between may be several."""
    parts = []
    for position, phrases in enumerate(lists):
        is_end = position in (0, len(lists) - 1)
        if is_end and generator.random() < 0.2:
            continue
        parts.append(_fill(generator.choice(phrases), words, generator))
        while not is_end and generator.random() < 0.35:
            parts.append(generator.choice(separators) + _fill(generator.choice(phrases), words, generator))
    return "".join(parts)


def _fill(phrase: str, words: dict[str, list[str]], generator: random.Random) -> str:
    while _SLOT.search(phrase):
        phrase = _SLOT.sub(lambda slot: generator.choice(words[slot[1]]), phrase)
    return re.sub("#", lambda _: str(generator.randrange(10)), phrase)


def _labeled(folder: Path, pattern: str) -> list[Example]:
    return [(row["text"], row["label"] == "spam") for row in spam_honest.rows(folder, pattern)]
