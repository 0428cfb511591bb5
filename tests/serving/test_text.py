"""The text of a stream: what was sent is never changed, and at the end it is the whole text."""

from collections.abc import Sequence

import pytest

from tasks.serving.text import AnswerText, Decoder
from tests.evaluation import small


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def parts(data: bytes, stops: Sequence[str] = ()) -> list[str]:
    text = AnswerText(decode, stops)
    result = []
    for byte in data:
        result.append(text.add(byte))
        if text.is_stopped:
            break
    return [*result, text.finish()]


@pytest.mark.parametrize("text", ["abc", "三千八百", "a😀b", "好" * 50, "x" * 100 + "é" + "y" * 100])
def test_incomplete_characters_are_held_back(text: str) -> None:
    pieces = parts(text.encode())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_invalid_bytes_are_sent_when_no_character_can_come() -> None:
    data = b"ab\xff\xfe\xfdcd\xe4\xb8"
    pieces = parts(data)
    assert "".join(pieces) == data.decode("utf-8", "replace")
    assert len("".join(pieces[:-1])) >= len("ab\ufffd\ufffd\ufffdcd")


def test_an_answer_of_invalid_bytes_is_streamed() -> None:
    """A template decodes the whole answer at its beginning."""
    text = AnswerText(decode, whole=decode)
    pieces = [text.add(0x80) for _ in range(20)]
    assert len("".join(pieces)) == 17
    assert "".join([*pieces, text.finish()]) == "\ufffd" * 20


def test_a_stop_text_ends_the_answer_and_is_not_sent() -> None:
    """Its beginning is held back until it is known to be something else."""
    assert "".join(parts(b"one END two", ["END"])) == "one "
    assert "".join(parts(b"one EN two", ["END"])) == "one EN two"
    assert "".join(parts(b"aab", ["ab"])) == "a"
    assert "".join(parts(b"xEN", ["END"])) == "xEN"
    assert "".join(parts("答：好。完".encode(), ["。", "完"])) == "答：好"
    assert parts(b"xEN", ["END"])[:3] == ["x", "", ""]
    assert "".join(parts(b"abcabd", ["abd", "cab"])) == "ab", "the first one in the text"


def test_tokens_as_bytes() -> None:
    """Each token of this tokenizer is one byte; a part of a character is shown as replacement."""
    decoder = Decoder(small.tokenizer())
    ids = small.encode("é好")
    assert b"".join(decoder.token_bytes(token) for token in ids) == "é好".encode()
    assert decoder.token_text(ids[0]) == "\ufffd"
    assert decoder.token_text(small.END) == decoder.tokenizer.eos_token


def test_the_text_of_a_chat_is_that_of_its_template() -> None:
    decoder = Decoder(small.tokenizer())
    text = decoder.answer_text([], is_chat=True)
    ids = [*small.encode("ja, 好"), small.END]
    pieces = [text.add(token) for token in ids[:-1]]
    text.ids.append(small.END)
    assert "".join([*pieces, text.finish(frozenset({small.END}))]) == "ja, 好"
