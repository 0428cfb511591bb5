"""Masking and span corruption, checked by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from tasks import corruption
from tasks.corruption import Masking, SpanCorruption
from tests.tokenization.corpus import tokenizer

IDS = np.array([1, 10, 11, 12, 13, 14, 15, 16])
SENTINELS = np.array([90, 91, 92])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_spans_are_replaced_by_sentinels() -> None:
    """T5's own example in numbers: two spans, 11 12 and 15; the targets are <0> 11 12 <1> 15."""
    is_corrupted = np.array([0, 0, 1, 1, 0, 0, 1, 0], bool)
    example = corruption.corrupt_spans(IDS, is_corrupted, SENTINELS)
    assert example.input_ids.tolist() == [1, 10, 90, 13, 14, 91, 16]
    assert example.target_ids.tolist() == [90, 11, 12, 91, 15]


def test_inputs_and_targets_together_contain_every_token() -> None:
    ids = np.arange(1000, 1200)
    for seed in range(20):
        is_corrupted = corruption.draw_spans(200, SpanCorruption(), rng(seed))
        example = corruption.corrupt_spans(ids, is_corrupted, np.arange(100))
        spans = np.split(example.target_ids, np.flatnonzero(example.target_ids < 100)[1:])
        restored = [list(spans[token][1:]) if token < 100 else [token] for token in example.input_ids]
        assert [int(token) for span in restored for token in span] == ids.tolist()


def test_number_of_tokens_and_spans_equals_t5() -> None:
    """512 tokens: 77 of them in 26 spans; T5's 568 raw tokens leave 512 with an end token: 568 - 85 + 28 + 1."""
    assert SpanCorruption().sizes(512) == (77, 26)
    assert SpanCorruption().sizes(568) == (85, 28)
    for length in (2, 3, 10, 512):
        is_corrupted = corruption.draw_spans(length, SpanCorruption(), rng(length))
        num_tokens, num_spans = SpanCorruption().sizes(length)
        assert is_corrupted.sum() == num_tokens
        assert (np.diff(is_corrupted.astype(int)) == 1).sum() == num_spans
        assert not is_corrupted[0]
        assert is_corrupted[-1]
    assert not corruption.draw_spans(1, SpanCorruption(), rng()).any()


def test_every_position_is_corrupted_equally_often() -> None:
    shares = np.mean([corruption.draw_spans(100, SpanCorruption(), rng(seed)) for seed in range(2000)], axis=0)
    assert shares[20:80].min() > 0.11
    assert shares[20:80].max() < 0.19


def test_masked_tokens_by_hand() -> None:
    """7 tokens are maskable; a share of .3 masks two of them, and all become the mask token."""
    masking = Masking(share=0.3, mask_share=1, random_share=0)
    masked_ids, is_predicted = corruption.mask_tokens(IDS, IDS > 1, masking, 99, 50, rng())
    assert is_predicted.sum() == 2
    assert (masked_ids[is_predicted] == 99).all()
    assert (masked_ids[~is_predicted] == IDS[~is_predicted]).all()
    assert not is_predicted[0]


def test_eighty_ten_ten() -> None:
    ids = np.full(200_000, 7)
    masked_ids, is_predicted = corruption.mask_tokens(ids, np.ones(len(ids), bool), Masking(), 99, 50, rng())
    assert is_predicted.sum() == 30_000
    assert (masked_ids[is_predicted] == 99).mean() == pytest.approx(0.8, abs=0.01)
    assert (masked_ids[is_predicted] == 7).mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    assert len(np.unique(masked_ids[is_predicted])) == 51
    with pytest.raises(ValidationError, match=r"mask_share \+ random_share must be at most 1, not 1\.1"):
        Masking(mask_share=0.8, random_share=0.3)


def test_at_least_one_maskable_token_is_masked() -> None:
    assert corruption.mask_tokens(IDS, IDS == 12, Masking(), 99, 50, rng())[1].tolist() == (IDS == 12).tolist()
    assert not corruption.mask_tokens(IDS, IDS < 0, Masking(), 99, 50, rng())[1].any()


def test_new_tokens_follow_those_of_the_tokenizer() -> None:
    original = tokenizer()
    size = len(original)
    with_mask, with_sentinels = corruption.with_mask_token(original), corruption.with_sentinels(original, 3)
    assert (with_mask.mask_token_id, len(with_mask)) == (size, size + 1)
    assert corruption.sentinel_ids(with_sentinels).tolist() == [size, size + 1, size + 2]
    assert len(original) == size
    assert len(corruption.with_mask_token(with_mask)) == size + 1
    ids = with_sentinels("a<extra_id_1>b").input_ids
    assert with_sentinels.decode(ids, skip_special_tokens=True) == "ab"
