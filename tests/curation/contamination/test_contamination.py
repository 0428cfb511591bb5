"""Contamination: texts that share n-grams with examples are found; formulas and hash collisions are not."""

import dataclasses
import itertools
import random

import pyarrow as pa
import pytest

from tasks.curation.contamination import contamination, leaks
from tasks.curation.contamination.contamination import EvaluationSet, Params
from tasks.curation.text import words

ENGLISH = "the quick brown fox jumps over the lazy dog while seven silent owls watch from an old crooked oak"
CHINESE = "人工智能正在改变我们的生活方式也在改变我们理解世界的方法和工具以及未来"


def strings(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


def hits(texts: list[str], examples: list[str], **params: float) -> list[tuple[int, str, str]]:
    index = contamination.build_index(
        [EvaluationSet("quiz", tuple(f"q{i}" for i in range(len(examples))), strings(*examples))],
        Params.model_validate(params),
    )
    return [(leak.row, leak.hits[0].set_name, leak.hits[0].example_id) for leak in leaks.scan(strings(*texts), index)]


def run(text: str, start: int, size: int) -> str:
    return " ".join(text.split()[start : start + size])


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not() -> None:
    texts = [f"before {run(ENGLISH, 3, 13)} after", f"before {run(ENGLISH, 3, 12)} after", run(ENGLISH, 0, 13).upper()]
    assert hits(texts, ["unrelated words " * 10, ENGLISH]) == [(0, "quiz", "q1"), (2, "quiz", "q1")]


def test_chinese_runs_are_counted_in_characters_whatever_the_script() -> None:
    traditional = "據說人工智能正在改變我們的生活方式也在改變我們理解世界的方法和工具"
    texts = ["前文" + CHINESE[5:29] + "后文", "前文" + CHINESE[5:28] + "后文", traditional]
    assert hits(texts, [CHINESE]) == [(0, "quiz", "q0"), (2, "quiz", "q0")]


def test_mixed_runs_count_as_what_most_of_their_tokens_are() -> None:
    mixed = "模型 alpha beta gamma delta epsilon zeta eta theta iota 上 kappa lambda 人"
    assert hits([f"x {mixed} y"], [mixed]) == [(0, "quiz", "q0")]
    assert (
        hits(["x 一二三四五六七 a b c d e f y"], ["一二三四五六七 a b c d e f"]) == []
    )  # 13 tokens, 7 of them characters


def test_short_texts_are_compared_whole() -> None:
    assert hits(["Paris.", "It is Paris", "paris"], ["Paris"]) == [(0, "quiz", "q0"), (2, "quiz", "q0")]
    assert hits(["", "..."], ["", "!"]) == []


def test_passages_of_many_examples_are_boilerplate_but_copies_of_an_example_are_not() -> None:
    template = "below is an instruction that describes a task please write a fitting response now"
    examples = [f"{template} case{i}x" for i in range(12)]
    assert hits([f"{template} something else"], examples[:3]) == [(0, "quiz", "q0")]
    assert hits([f"{template} something else"], examples[:4]) == []  # more than 3, and more than half of the examples
    assert hits([f"{template} something else"], examples[:4] + ["another"] * 20, max_occurrences=3) == []
    assert hits([examples[3]], examples) == [(0, "quiz", "q3")]


def test_every_planted_leak_is_found_and_named() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(500)]
    examples = [" ".join(rng.choices(vocabulary, k=40)) for _ in range(200)]
    texts, expected = [], []
    for i in range(400):
        text = rng.choices(vocabulary, k=rng.randrange(300))
        if i % 2:
            position, start = rng.randrange(len(text) + 1), rng.randrange(28)
            text[position:position] = examples[i // 2].split()[start : start + 13]
            expected.append((i, "quiz", f"q{i // 2}"))
        texts.append(" ".join(text))
    assert hits(texts, examples) == expected


def test_hash_collisions_drop_nothing() -> None:
    """The examples of the index are replaced by others, so that equal hashes stand for different words."""
    index = contamination.build_index([EvaluationSet("quiz", ("q0",), strings(ENGLISH))], Params())
    other = EvaluationSet("quiz", ("q0",), strings(ENGLISH.replace("o", "0")))
    assert list(leaks.scan(strings(ENGLISH), dataclasses.replace(index, sets=(other,)))) == []


def numbers(count: int, seed: int) -> list[str]:
    """Return prompts that share a long instruction and differ in a number only."""
    rng = random.Random(seed)
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    instruction = "please translate the following number into Chinese and answer with nothing but the number itself"
    return [f"{instruction}: {' hundred '.join(rng.choices(names, k=3))}" for _ in range(count)]


def test_records_with_long_instructions_are_not_mistaken() -> None:
    held_out = sorted(set(numbers(30, 1)))
    train = [text for text in numbers(600, 2) if text not in held_out]
    index = contamination.build_index([EvaluationSet("quiz", tuple(held_out), strings(*held_out))], Params())
    assert list(leaks.scan(strings(*train), index)) == []
    contaminated = leaks.scan(strings(*train, held_out[7], held_out[7].upper() + "."), index)
    assert [(leak.row, leak.hits[0].example_id) for leak in contaminated] == [
        (len(train), held_out[7]),
        (len(train) + 1, held_out[7]),
    ]


def after_cut(text: str, **params: float) -> str | None:
    settings = Params.model_validate(params)
    index = contamination.build_index([EvaluationSet("quiz", ("q0",), strings(ENGLISH))], settings)
    (leak,) = leaks.scan(strings(text), index)
    return leaks.remove_passages(text, leak.hits, settings)


def test_a_cut_leaves_the_rest_where_enough_of_it_remains() -> None:
    leak = run(ENGLISH, 2, 15)
    text = f"A long beginning, {leak} and a long ending."
    assert after_cut(text, margin=6, min_remaining=0) == "A long begin\nlong ending."
    assert after_cut(text, margin=6, min_remaining=0.3) is None  # 24 of 113 characters would remain
    assert after_cut(f"{leak} {'filler ' * 20} {leak}", margin=6, min_remaining=0, max_cuts=1) is None
    assert after_cut(leak, min_remaining=0) is None


def test_sets_are_described() -> None:
    first = EvaluationSet("quiz", ("a", "b"), strings("x", "y"))
    swapped = EvaluationSet("quiz", ("b", "a"), strings("y", "x"))
    assert contamination.build_index([first], Params()).describe() == {
        "quiz": {"examples": 2, "digest": first.digest()}
    }
    assert first.digest() == swapped.digest() != EvaluationSet("quiz", ("a", "b"), strings("x", "z")).digest()


def test_no_examples_and_no_texts() -> None:
    assert hits(["a text"], []) == []
    assert hits([], ["an example"]) == []


def test_many_hits_and_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNK_ROWS", 3)
    texts = [f"{ENGLISH} {i}" if i % 3 else "clean" for i in range(100)]
    assert [row for row, _, _ in hits(texts, [ENGLISH], max_occurrences=100, max_share=1)] == [
        i for i in range(100) if i % 3
    ]


def test_starts_are_the_tokens_of_the_contract() -> None:
    text = "Hello, 電腦World_9 ﬁn　é!"
    data, starts = words.encode_with_token_starts(text)
    places = [data[begin:end].decode() for begin, end in itertools.pairwise(starts)]
    assert [list(words.tokens(part)) for part in places] == [[token] for token in words.tokens(text)]
