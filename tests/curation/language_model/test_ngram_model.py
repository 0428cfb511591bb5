"""The n-gram language model: against plain Python, on sentences with known answers, saved and read again."""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from tasks import files
from tasks.curation.language_model import ngram_kernels, ngram_model
from tasks.curation.language_model.ngram_model import NgramModel, Params
from tasks.curation.text import words
from tasks.errors import BadInput
from tasks.files import Schema

ENGLISH = [
    f"The {adjective} {animal} {verb} {place} before the rain began."
    for adjective in ("old", "small", "brown", "quiet")
    for animal in ("dog", "horse", "cat", "bird")
    for verb in ("went to", "looked at", "came from", "slept near")
    for place in ("the river", "a house", "the market")
]
CHINESE = [
    f"{time}{who}在{place}{what}。"
    for time in ("昨天", "早上", "下午", "星期天")
    for who in ("老师", "我的朋友", "孩子们", "他")
    for place in ("学校", "图书馆", "公园", "家里")
    for what in ("看书", "等我们", "写作业")
]


def arrow(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def trained(texts: list[str], bits: int = 16) -> NgramModel:
    return ngram_model.train([arrow(texts)], Params(bits=bits), {"language": "en"})


def entries(model: NgramModel) -> dict[int, tuple[int, ...]]:
    used = np.flatnonzero(model.keys)
    return {int(model.keys[slot]): tuple(model.numbers[slot].tolist()) for slot in used}


class Reference:
    """Interpolated Kneser-Ney in plain Python, over tuples of tokens."""

    def __init__(self, texts: list[str]) -> None:
        trigrams = Counter(gram for text in texts for gram in self.trigrams(text))
        counts = {3: trigrams, 2: Counter(gram[1:] for gram in trigrams)}
        counts[1] = Counter(gram[1:] for gram in counts[2])
        self.counts = counts
        self.extensions: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for order in counts:
            for gram, count in counts[order].items():
                self.extensions[gram[:-1]].append(count)
        self.discounts = {}
        for order, grams in counts.items():
            once, twice = (sum(count == n for count in grams.values()) for n in (1, 2))
            self.discounts[order] = min(max(once / (once + 2 * twice), 0.05), 0.95) if once and twice else 0.75

    @staticmethod
    def trigrams(text: str) -> list[tuple[str, ...]]:
        tokens = ["", "", *words.tokens(text)]
        return list(zip(tokens, tokens[1:], tokens[2:], strict=False))

    def probability(self, gram: tuple[str, ...]) -> float:
        shorter = self.probability(gram[1:]) if len(gram) > 1 else 1 / (len(self.counts[1]) + 1)
        extensions = self.extensions[gram[:-1]]
        if not extensions:
            return shorter
        discount = self.discounts[len(gram)]
        count = max(self.counts[len(gram)][gram] - discount, 0)
        return (count + discount * len(extensions) * shorter) / sum(extensions)

    def perplexity(self, text: str) -> float:
        nats = [-math.log(self.probability(gram)) for gram in self.trigrams(text)]
        return math.exp(sum(nats) / len(nats)) if nats else math.nan


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE, ["a"], ["a b", "", "a a a a a", "中 a 中中"]])
def test_the_kernels_agree_with_plain_python(texts: list[str]) -> None:
    reference, model = Reference(texts), trained(texts)
    unseen = [*texts[:5], "the dog 在 the dog", "unknown words only", "学校老师", ""]
    expected = [reference.perplexity(text) for text in unseen]
    assert model.perplexities(arrow(unseen)) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_a_perplexity_by_hand() -> None:
    """The text "a a a": the trigrams ^^a, ^aa, aaa occur once; the bigrams ^a, aa are preceded by 1 and 2 tokens.

    Trigrams: n1 = 3, n2 = 0, discount 0.75. Bigrams: n1 = n2 = 1, discount 1 / (1 + 2) = 1/3. The token a is preceded
    by 2 tokens: n1 = 0, discount 0.75. Then P(a) = 1.25 / 2 + 0.75 / 2 * 1/2 = 0.8125.
    P(a|^) = 2/3 + 1/3 P(a) = 0.9375; P(a|^^) = 0.25 + 0.75 * 0.9375 = 0.953125.
    P(a|a) = (2 - 1/3) / 2 + 1/3 / 2 * 0.8125 = 0.96875; P(a|^a) = P(a|aa) = 0.25 + 0.75 * 0.96875 = 0.9765625.
    """
    expected = (0.953125 * 0.9765625**2) ** (-1 / 3)
    assert trained(["a a a"]).perplexities(arrow(["a a a"]))[0] == pytest.approx(expected, rel=1e-12)


def test_the_probabilities_of_all_tokens_sum_to_one() -> None:
    model = trained(["a b c a b", "b c", "c a a"])
    start = model.perplexities(arrow(["a b"]))[0] ** -2  # P(a b) of a text with 2 tokens
    next_tokens = [f"a b {token}" for token in ("a", "b", "c", "unknown")]
    assert (model.perplexities(arrow(next_tokens)) ** -3).sum() / start == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE])
def test_sentences_rank_before_shuffled_ones(texts: list[str]) -> None:
    generator = random.Random(0)
    texts = generator.sample(texts, len(texts))
    model, unseen, shuffled = trained(texts[:-40]), texts[-40:], []
    for text in unseen:
        tokens = list(words.tokens(text))
        shuffled.append(" ".join(generator.sample(tokens, len(tokens))))
    assert (model.perplexities(arrow(unseen)) < model.perplexities(arrow(shuffled))).all()


def test_a_full_table_ignores_new_ngrams_and_keeps_counting_old_ones() -> None:
    """256 slots: new trigrams are ignored above 0.75 * 256 - 5 = 187 used slots."""
    model = trained([*(f"w{i} x{i} y{i}" for i in range(200)), "w0 x0 y0"], bits=8)
    assert 187 < model.sums[ngram_kernels.USED] <= 192
    assert model.sums[ngram_kernels.NUM_IGNORED] > 400
    known, ignored = model.perplexities(arrow(["w0 x0 y0", "w199 x199 y199"]))
    assert known < ignored
    assert np.isfinite(ignored)


def test_parts_of_the_text_do_not_matter() -> None:
    at_once = trained(ENGLISH)
    in_parts = ngram_model.train([arrow(ENGLISH[:7]), arrow([]), arrow(ENGLISH[7:])], Params(bits=12), {})
    assert entries(at_once) == entries(in_parts)
    assert at_once.discounts.tolist() == in_parts.discounts.tolist()


def test_a_text_without_a_word_has_no_perplexity() -> None:
    assert np.isnan(trained(ENGLISH).perplexities(arrow(["", " \n", "!!"]))).all()
    with pytest.raises(BadInput, match="contain no word"):
        trained(["", "!"])


def test_a_saved_model_gives_the_same_values_and_the_same_bytes(tmp_path: Path) -> None:
    model, path = trained(CHINESE), tmp_path / "folder" / "zh.safetensors"
    model.save(path)
    loaded = ngram_model.load(path)
    assert (
        loaded.perplexities(arrow(ENGLISH + CHINESE)).tolist() == model.perplexities(arrow(ENGLISH + CHINESE)).tolist()
    )
    assert loaded.about == model.about
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first
    trained(CHINESE).save(path)
    assert path.read_bytes() == first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    trained(ENGLISH).save(path)
    assert ngram_model.load_cached(path) is ngram_model.load_cached(path)
    trained(CHINESE).save(path)
    assert ngram_model.load_cached(path).perplexities(arrow([CHINESE[0]]))[0] < 10


def test_a_file_that_is_no_model_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zh.safetensors"
    command = rf"python -m flows.language_model --language CODE --output {path} PATH"
    with pytest.raises(BadInput, match=f"There is no language model {path}. Train a language model: {command}"):
        ngram_model.load_cached(path)
    path.write_bytes(b"text")
    with pytest.raises(BadInput, match=f"cannot be read.*{command}"):
        ngram_model.load(path)
    save_file({"weights": np.zeros(1)}, path)
    with pytest.raises(BadInput, match=f"is not a language model.*{command}"):
        ngram_model.load(path)
    trained(ENGLISH).save(path)
    monkeypatch.setitem(files.SCHEMAS, "language_model", Schema(2, oldest=2))
    with pytest.raises(BadInput, match=f"was written by an older version.*{command}"):
        ngram_model.load(path)
