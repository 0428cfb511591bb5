"""Boilerplate: passages that many texts share prove no leak, and leaks beside them are found."""

import random

import pyarrow as pa
import pytest

from tasks.curation.contamination import boilerplate, contamination, leaks
from tasks.curation.contamination.contamination import EvaluationSet, Params

FOOTER = (
    "all rights reserved no part of this page may be copied without the written permission of the example town library"
)
LICENSE = (
    "Licensed under the Example License, Version 2.0 (the License); you may not use this file except in compliance "
    "with the License. You may obtain a copy of the License at the office of the example foundation in Example Town."
)
TEMPLATE = (
    "You are a professional translator. Translate the following sentence from English into Chinese, keep the tone of "
    "the original, and answer with the translation only, without any explanation:"
)
FOOTER_ZH = "本网站所有内容均由示例镇图书馆提供，未经书面许可不得转载或者用于任何商业用途，违者必究，责任编辑小艾。"


def strings(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def body(rng: random.Random, size: int = 40) -> str:
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(size))


def leaked_rows(train: list[str], held_out: list[str]) -> list[int]:
    sets = [EvaluationSet("test", tuple(f"e{i}" for i in range(len(held_out))), strings(held_out))]
    return [leak.row for leak in leaks.scan(strings(train), contamination.build_index(sets, Params()))]


def header(i: int) -> str:
    return f"Posted on March {i % 28 + 1} 20{i % 10 + 10} by admin in category news of the town with {i} comments and "


@pytest.mark.parametrize("num_train", [6, 9, 70, 300])
@pytest.mark.parametrize(
    "page",
    [
        lambda i, rng: f"{body(rng)} {FOOTER}",  # a footer
        lambda i, rng: f"# Copyright 20{i % 20 + 10} Author {i}. {LICENSE}\n{body(rng)}",  # a license after a year
        lambda i, rng: f"{TEMPLATE} {body(rng, 8)}\n{body(rng, 6)}",  # a template with a place at its end
        lambda i, rng: f"{body(rng)}\n{FOOTER_ZH}",  # a footer in Chinese
        lambda i, rng: f"{header(i)}{FOOTER}. {body(rng)}",  # a header with numbers before it
    ],
)
def test_passages_of_many_training_texts_remove_nothing(num_train: int, page: object) -> None:
    rng = random.Random(num_train)
    texts = [page(i, rng) for i in range(num_train + 3)]  # type: ignore[operator]
    assert leaked_rows(texts[3:], texts[:3]) == []


def test_a_template_with_a_place_in_its_middle_is_boilerplate() -> None:
    """Two texts about the same town share 13 words, of which only one differs from text to text."""
    towns = [f"town{i}" for i in range(40)]
    text = "the weather service of the coast says that in {} the sky will be clear and the wind will come from {}"
    rng = random.Random(0)
    texts = [text.format(rng.choice(towns), body(rng, 3)) for _ in range(400)]
    assert leaked_rows(texts[50:], texts[:50]) == []


def test_few_copies_are_leaks_and_many_are_boilerplate() -> None:
    """3 of 60 training texts are few. 4 of 60 are more than 3, and more than 3 % of them."""
    rng = random.Random(1)
    secret = body(rng, 20)
    train = [body(rng) for _ in range(60)]
    copies = [f"{text} {secret} {body(rng)}" if i < 3 else text for i, text in enumerate(train)]
    assert leaked_rows(copies, [secret + " " + body(rng)]) == [0, 1, 2]
    assert leaked_rows([f"{copies[4]} {secret}", *copies], [secret + " " + body(rng)]) == []


@pytest.mark.parametrize("num_texts", [10, 30, 100, 1000])
def test_every_leak_is_found_beside_boilerplate(num_texts: int) -> None:
    """Examples and texts have the same footer; 13 words of one example are in every second text."""
    rng = random.Random(num_texts)
    held_out = [f"{body(rng)} {FOOTER}" for _ in range(num_texts // 2)]
    train = []
    for i in range(num_texts):
        words = f"{body(rng)} {FOOTER}".split()
        if i % 2 == 0:
            start, position = rng.randrange(40 - 13), rng.randrange(len(words) + 1)
            words[position:position] = held_out[i // 2].split()[start : start + 13]
        train.append(" ".join(words))
    assert leaked_rows(train, held_out) == list(range(0, num_texts, 2))


def test_a_text_that_equals_an_example_is_a_leak_even_if_it_is_boilerplate() -> None:
    rng = random.Random(2)
    train = [f"{body(rng)} {FOOTER}" for _ in range(50)]
    assert leaked_rows([*train, FOOTER.upper()], [FOOTER]) == [50]


def test_texts_of_one_unit_count_once() -> None:
    """Twenty answers to one prompt share the prompt; this does not make it boilerplate."""
    rng = random.Random(3)
    prompt = body(rng, 20)
    sets = [EvaluationSet("test", ("e0",), strings([f"{prompt} {body(rng)}"]))]
    index = contamination.build_index(sets, Params())
    texts = strings([f"{prompt} {body(rng)}" for _ in range(20)] + [body(rng) for _ in range(20)])
    units = pa.array([0] * 20 + list(range(1, 21))).to_numpy()
    survey = boilerplate.survey(texts, index, None, units)
    comparison = leaks.Comparison(index, boilerplate.recognize(index, [survey]))
    assert [leak.row for leak in leaks.find(texts, comparison, survey, units)] == list(range(20))
    assert leaked_rows(texts.to_pylist(), [f"{prompt} {body(rng)}"]) == []


def test_the_report_lists_passages_with_counts_and_text() -> None:
    rng = random.Random(4)
    texts = [f"{body(rng)} {FOOTER}" for _ in range(33)]
    sets = [EvaluationSet("test", ("a", "b", "c"), strings(texts[:3]))]
    index = contamination.build_index(sets, Params())
    survey = boilerplate.survey(strings(texts[3:]), index)
    passages = boilerplate.recognize(index, [survey]).passages(index)
    assert passages == [{"training_texts": 30, "examples": 3, "text": FOOTER}]
