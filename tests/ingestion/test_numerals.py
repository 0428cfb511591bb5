"""Numbers in words against known answers, and read back by an independent function."""

import pytest

from tasks.ingestion.numerals import MAX_NUMBER, chinese, english

KNOWN = [
    (0, "零", "zero"),
    (1, "一", "one"),
    (10, "十", "ten"),
    (12, "十二", "twelve"),
    (19, "十九", "nineteen"),
    (20, "二十", "twenty"),
    (21, "二十一", "twenty-one"),
    (100, "一百", "one hundred"),
    (101, "一百零一", "one hundred one"),
    (110, "一百一十", "one hundred ten"),
    (115, "一百一十五", "one hundred fifteen"),
    (321, "三百二十一", "three hundred twenty-one"),
    (1000, "一千", "one thousand"),
    (1001, "一千零一", "one thousand one"),
    (1010, "一千零一十", "one thousand ten"),
    (1100, "一千一百", "one thousand one hundred"),
    (2022, "二千零二十二", "two thousand twenty-two"),
    (10_000, "一万", "ten thousand"),
    (10_001, "一万零一", "ten thousand one"),
    (10_010, "一万零一十", "ten thousand ten"),
    (10_100, "一万零一百", "ten thousand one hundred"),
    (20_502, "二万零五百零二", "twenty thousand five hundred two"),
    (45_000, "四万五千", "forty-five thousand"),
    (99_999, "九万九千九百九十九", "ninety-nine thousand nine hundred ninety-nine"),
]


@pytest.mark.parametrize(("number", "han", "words"), KNOWN)
def test_known_numbers(number: int, han: str, words: str) -> None:
    assert chinese(number) == han
    assert english(number) == words


def read_chinese(text: str) -> int:
    total, digit = 0, 0
    for character in text:
        if character in "零一二三四五六七八九":
            digit = "零一二三四五六七八九".index(character)
        else:
            total, digit = total + max(digit, 1) * {"十": 10, "百": 100, "千": 1000, "万": 10_000}[character], 0
    return total + digit


def read_english(text: str) -> int:
    ones = {english(n): n for n in range(20)} | {english(n): n for n in range(20, 100, 10)}
    total = part = 0
    for word in text.replace("-", " ").split():
        if word == "thousand":
            total, part = part * 1000, 0
        else:
            part = part * 100 if word == "hundred" else part + ones[word]
    return total + part


def test_every_number_can_be_read_back() -> None:
    numbers = range(1, MAX_NUMBER + 1, 7)
    assert [read_chinese(chinese(n)) for n in numbers] == list(numbers)
    assert [read_english(english(n)) for n in numbers] == list(numbers)


@pytest.mark.parametrize("number", [-1, MAX_NUMBER + 1])
def test_what_cannot_be_written_is_refused(number: int) -> None:
    for write in (chinese, english):
        with pytest.raises(ValueError, match="expected a number from 0 to 99999"):
            write(number)
