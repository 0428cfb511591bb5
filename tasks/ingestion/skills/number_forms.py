"""Numbers in the form that answers have, and in the forms that people write."""

import random

from tasks.ingestion import numerals


def write_number(number: int, language: str) -> str:
    """Return a number from -99,999 to 99,999 in words of a language, in the one form that answers have."""
    if number < 0:
        return ("minus " if language == "en" else "负") + write_number(-number, language)
    return numerals.english(number) if language == "en" else numerals.chinese(number)


def vary_number(number: int, language: str, rng: random.Random) -> str:
    """Return the number in words as a person may write it: with "and", without hyphens, capitalized, 两千, 一百二."""
    text = write_number(number, language)
    if language == "en":
        if rng.random() < 0.3:
            text = text.replace("-", " ")
        if number % 100 and "hundred " in text and rng.random() < 0.3:
            text = text.replace("hundred ", "hundred and ")
        return text.capitalize() if rng.random() < 0.15 else text
    if rng.random() < 0.4:
        text = text.replace("二千", "两千").replace("二百", "两百").replace("二万", "两万")
    # 一百二 is short for 一百二十, which is unambiguous only behind hundreds that are not zero.
    if number % 10 == 0 and number % 100 and number % 1000 > 100 and rng.random() < 0.2:
        text = text.removesuffix("十")
    return text
