"""New tokens for the tokenizer of another model: text is the same, old ids stay, the corpus gets shorter."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.errors import BadParams
from tasks.tokenization import bpe, merging, tasks
from tests.tokenization.corpus import SENTENCES, tokenizer

NEW = ["a zebra zooms", "zebras zigzag 321", "斑马 斑马快跑 zebra"]


def length(made: Any, texts: list[str]) -> int:
    return sum(len(made(text, add_special_tokens=False).input_ids) for text in texts)


def test_what_is_learned_by_hand() -> None:
    """Of "abab" x 3 in letters: a-b first, then ab-ab."""
    made = merging.extend(tokenizer(262 + 2), ["xyxy"] * 3, 2)
    assert made.convert_ids_to_tokens([264, 265]) == ["xy", "xyxy"]
    assert made("xyxyxy", add_special_tokens=False).input_ids == [265, 264]


def test_training_goes_on_where_it_ended() -> None:
    """On the same corpus: as many tokens as one training, hardly a token more in the text."""
    once, extended = tokenizer(340), merging.extend(tokenizer(300), SENTENCES * 3, 40)
    assert len(extended) == 340
    assert length(extended, SENTENCES) <= 1.03 * length(once, SENTENCES)


def test_old_ids_stay_and_text_comes_back(tmp_path: Path) -> None:
    before = tokenizer()
    made = merging.extend(tokenizer(), NEW * 3, 20)
    assert len(made) == 320
    assert {token: index for token, index in made.get_vocab().items() if index < 300} == before.get_vocab()
    assert length(made, NEW) < 0.7 * length(before, NEW)
    bpe.save(tmp_path, made)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*NEW, *SENTENCES, "naïve 👩‍👩‍👧"]:
        ids = made(text, add_special_tokens=False).input_ids
        assert made.decode(ids) == text
        assert loaded(text, add_special_tokens=False).input_ids == ids
    assert loaded.eos_token_id == before.eos_token_id
    assert loaded.chat_template == bpe.CHAT_TEMPLATE


def test_numbers_are_still_spelled() -> None:
    made = merging.extend(tokenizer(), ["321 三百二十一"] * 50, 20)
    assert all(len(made.decode(i).strip()) <= 1 for i in made("321三百二十一", add_special_tokens=False).input_ids)


def test_special_tokens_outside_of_the_vocabulary_keep_their_ids() -> None:
    """As Llama 3 and Qwen have them: right behind the vocabulary, where new tokens would come."""
    own = tokenizer()
    own.add_special_tokens({"eos_token": "</s>"})
    assert own.eos_token_id == 300
    made = merging.extend(own, NEW * 3, 20)
    assert made.eos_token_id == 300
    assert made.convert_tokens_to_ids("</s>") == 300
    assert len(made) == 321
    assert made("</s>", add_special_tokens=False).input_ids == [300]


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    from tests.training.tiny import tokenizer as words

    made: PreTrainedTokenizerFast = words()
    with pytest.raises(BadParams, match=r"byte-level BPE tokenizers only.*is a WordLevel"):
        merging.extend(made, NEW, 5)


def test_new_tokens_need_a_tokenizer() -> None:
    with pytest.raises(ValidationError, match="none is named"):
        tasks.Params(new_tokens=5)
