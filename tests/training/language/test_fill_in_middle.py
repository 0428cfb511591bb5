"""Fill in the middle: both forms by hand, whole texts in rows, and the tokens of known tokenizers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import corruption
from tasks.causal.losses import IGNORED
from tasks.errors import BadModel
from tasks.tokenization import bpe
from tasks.tokens import Stream, make_records, read_stream, write_records, write_stream
from tasks.training.language import fill_in_middle
from tasks.training.language.fill_in_middle import MiddleRows
from tasks.training.language.rows import PackedRows
from tasks.training.stages import pretrain
from tests.training import tiny

PREFIX, SUFFIX, MIDDLE = TOKENS = (100, 101, 102)
BOS, END = 1, 5


class FixedCuts:
    """Stands for a random generator that cuts a text at given places."""

    def __init__(self, *places: int) -> None:
        self.places = np.array(places)

    def integers(self, low: int, high: int, size: int) -> Any:
        return self.places


def test_both_forms_by_hand() -> None:
    """The text 10 ... 15 is cut after 2 and after 5 tokens: prefix 10 11, middle 12 13 14, suffix 15."""
    ids = np.arange(10, 16)
    psm = corruption.move_middle(ids, TOKENS, False, FixedCuts(5, 2))  # type: ignore[arg-type]
    assert psm.tolist() == [PREFIX, 10, 11, SUFFIX, 15, MIDDLE, 12, 13, 14]
    spm = corruption.move_middle(ids, TOKENS, True, FixedCuts(2, 5))  # type: ignore[arg-type]
    assert spm.tolist() == [PREFIX, SUFFIX, 15, MIDDLE, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("names", corruption.MIDDLE_TOKENS)
def test_tokens_of_known_tokenizers_are_found(names: tuple[str, str, str]) -> None:
    tokenizer = tiny.tokenizer()
    assert corruption.middle_ids(tokenizer) is None
    tokenizer.add_tokens(["<other>", *names[::-1]])
    assert corruption.middle_ids(tokenizer) == tuple(tokenizer.convert_tokens_to_ids(list(names)))
    size = len(tokenizer)
    corruption.add_middle_tokens(tokenizer)
    assert len(tokenizer) == size, "it has them already"


def test_a_new_tokenizer_receives_them_as_special_tokens() -> None:
    tokenizer = bpe.train(["some words and some more words"], 265, 1)
    corruption.add_middle_tokens(tokenizer)
    assert corruption.middle_ids(tokenizer) == (265, 266, 267)
    assert set(bpe.SPECIAL) <= set(tokenizer.all_special_tokens), "the others stay"
    assert tokenizer.decode([265, 266, 267], skip_special_tokens=True) == ""


def test_a_tokenizer_without_them_is_refused() -> None:
    with pytest.raises(BadModel, match=r"pretrain.fill_in_middle needs special tokens .* tokenization.fill_in_middle"):
        fill_in_middle.tokens_of(tiny.tokenizer(), "pretrain")
    with pytest.raises(ValueError, match="fill_in_middle needs the objective causal, not masked"):
        pretrain.Params.model_validate({"objective": "masked", "fill_in_middle": 0.5})


def rows_of(folder: Path, lengths: list[int], share: float, length: int = 20, **section: Any) -> MiddleRows:
    """Documents with the ids 1000, 1001, ... between the first and the end token of a tokenizer."""
    ids, first = list[int](), 1000
    for count in lengths:
        ids += [BOS, *range(first, first + count - 2), END]
        first += count - 2
    positions = np.concatenate([np.arange(count) for count in lengths]).astype(np.uint32)
    write_stream(folder, Stream(np.array(ids, np.uint16), positions, (positions > 0).astype(np.uint8)))
    starts = np.cumsum([0, *lengths[:-1]])
    labels = {"source": ["a"] * len(lengths), "language": ["en"] * len(lengths)}
    write_records(folder, make_records(starts, np.array(lengths), labels))
    tokenizer = tiny.tokenizer()
    corruption.add_middle_tokens(tokenizer)
    settings = {"steps": 40, "global_batch_size": 2, "fill_in_middle": share, "sequence_length": length, **section}
    packed = PackedRows(read_stream(folder), length, 2, 2, 0, 0)
    return MiddleRows(packed, folder, pretrain.Params.model_validate(settings), tokenizer, "pretrain")


def texts_of(rows: MiddleRows) -> list[list[int]]:
    """The texts of all rows, without padding."""
    texts = []
    for row in range(rows.count):
        ids, positions, _ = rows._read(row)
        texts += [part.tolist() for part in np.split(ids, np.flatnonzero(positions == 0)[1:])]
    return texts


def original(text: list[int], tokens: tuple[int, int, int]) -> list[int]:
    """The text before it was changed, without special tokens."""
    prefix, suffix, middle = tokens
    text = [token for token in text if token not in (BOS, END)]
    if prefix not in text:
        return text
    if text[1] == suffix:  # SPM
        at = text.index(middle)
        after = text[2:at]
        rest = text[at + 1 :]
        # The middle follows the prefix directly, so that both are one run of consecutive numbers.
        return sorted(rest + after)
    at, last = text.index(suffix), text.index(middle)
    return text[1:at] + text[last + 1 :] + text[at + 1 : last]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_token_is_lost_and_no_text_is_mixed_with_another(share: float, tmp_path: Path) -> None:
    lengths = [7, 12, 3, 60, 9, 2, 15]
    rows = rows_of(tmp_path, lengths, share)
    texts = texts_of(rows)
    assert all(text[0] == BOS for text in texts), "the first token of documents stays in front"
    restored = sorted(original(text, rows.tokens) for text in texts)
    size = sum(lengths) - 2 * len(lengths)
    assert sorted(token for text in restored for token in text) == list(range(1000, 1000 + size))
    assert all(text == list(range(text[0], text[0] + len(text))) for text in restored if text), "each from one document"
    assert sum(END in text for text in texts) == len(lengths)
    assert all(text[-1] == END for text in texts if END in text)
    changed = [text for text in texts if rows.tokens[0] in text]
    assert len(changed) == {0.0: 0, 1.0: len(texts)}.get(share, len(changed))
    if share == 1:
        assert {text[2] == rows.tokens[1] for text in texts} == {True, False}, "PSM and SPM"


def test_rows_fit_and_every_token_but_the_first_is_a_target(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [7, 12, 3, 60, 9, 2, 15], 1.0)
    for step in range(3):
        for batch in rows.batches(step):
            assert batch.ids.shape == (2, 20)
            for ids, positions, targets, number in zip(
                batch.ids, batch.positions, batch.targets, batch.rows, strict=True
            ):
                whole, places, _ = rows._read(number)
                assert len(whole) <= 21
                assert ids.tolist()[: len(whole) - 1] == whole.tolist()[:-1]
                assert positions.tolist()[: len(whole) - 1] == places.tolist()[:-1]
                expected = np.where(places[1:] > 0, whole[1:], IGNORED).tolist()
                assert targets.tolist()[: len(expected)] == expected
                assert (targets[len(expected) :] == IGNORED).all()


def test_the_rows_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    lengths = [7, 12, 3, 60, 9, 2, 15]
    first, again = (rows_of(tmp_path / name, lengths, 0.5) for name in ("a", "b"))
    assert first.batches(3)[0].ids.tolist() == again.batches(3)[0].ids.tolist()
    other = rows_of(tmp_path / "c", lengths, 0.5, seed=1)
    assert sorted(map(tuple, texts_of(other))) != sorted(map(tuple, texts_of(first)))


def test_a_mixture_chooses_the_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [7, 12, 9], 0.5, mixture={"a": 1.0})
    assert rows.table(4)[0]["name"] == "a"
    assert rows.note() == (
        "fill_in_middle: 50% of 3 texts (documents, or pieces of at most 17 tokens) have their middle last."
    )
