"""Numbers from 0 to 99,999 in words, in Chinese and in English."""

MAX_NUMBER = 99_999

_HAN = "零一二三四五六七八九"
_HAN_PLACES = ("", "十", "百", "千", "万")

# fmt: off
_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on


def chinese(number: int) -> str:
    """Write a number in Chinese: 12 -> 十二, 110 -> 一百一十, 10_001 -> 一万零一.

    A sequence of zeros inside the number is written as one 零; zeros at the end are not written.
    """
    _check(number)
    if number == 0:
        return _HAN[0]
    digits = str(number)
    parts: list[str] = []
    for index, digit in enumerate(digits):
        if digit != "0":
            parts.append(_HAN[int(digit)] + _HAN_PLACES[len(digits) - 1 - index])
        elif parts and parts[-1] != _HAN[0]:
            parts.append(_HAN[0])
    written = "".join(parts).rstrip(_HAN[0])
    return written.removeprefix("一") if 10 <= number < 20 else written  # 10 is 十, but 110 is 一百一十


def english(number: int) -> str:
    """Write a number in English: 321 -> three hundred twenty-one, with hyphens, without "and" and commas."""
    _check(number)
    thousands, rest = divmod(number, 1000)
    if thousands:
        return f"{_below_thousand(thousands)} thousand" + (f" {_below_thousand(rest)}" if rest else "")
    return _below_thousand(rest)


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{_SMALL[hundreds]} hundred" + (f" {_below_thousand(rest)}" if rest else "")
    if number < len(_SMALL):
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")


def _check(number: int) -> None:
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"{number} cannot be written in words: expected a number from 0 to {MAX_NUMBER}")
