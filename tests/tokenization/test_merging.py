"""New tokens for the tokenizer of another model: texts and existing ids do not change, the corpus gets shorter."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.errors import BadParams
from tasks.tokenization import bpe, merging, tasks
from tests.tokenization.corpus import SENTENCES, tokenizer

NEW = ["a zebra zooms", "zebras zigzag 321", "斑马 斑马快跑 zebra"]


def num_ids(tokenizer: Any, texts: list[str]) -> int:
    return sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)


def test_what_is_learned_by_hand() -> None:
    """Of "xyxy" x 3 in letters: first x-y, then xy-xy."""
    extended = merging.extend(tokenizer(262 + 2), ["xyxy"] * 3, 2)
    assert extended.convert_ids_to_tokens([264, 265]) == ["xy", "xyxy"]
    assert extended("xyxyxy", add_special_tokens=False).input_ids == [265, 264]


def test_training_goes_on_where_it_ended() -> None:
    """On the same corpus: the same vocabulary size as one training, and texts that are at most 3 % longer."""
    once, extended = tokenizer(340), merging.extend(tokenizer(300), SENTENCES * 3, 40)
    assert len(extended) == 340
    assert num_ids(extended, SENTENCES) <= 1.03 * num_ids(once, SENTENCES)


def test_old_ids_stay_and_text_comes_back(tmp_path: Path) -> None:
    before = tokenizer()
    extended = merging.extend(tokenizer(), NEW * 3, 20)
    assert len(extended) == 320
    assert {token: index for token, index in extended.get_vocab().items() if index < 300} == before.get_vocab()
    assert num_ids(extended, NEW) < 0.7 * num_ids(before, NEW)
    bpe.save(tmp_path, extended)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*NEW, *SENTENCES, "naïve 👩‍👩‍👧"]:
        ids = extended(text, add_special_tokens=False).input_ids
        assert extended.decode(ids) == text
        assert loaded(text, add_special_tokens=False).input_ids == ids
    assert loaded.eos_token_id == before.eos_token_id
    assert loaded.chat_template == bpe.CHAT_TEMPLATE


def test_numbers_are_still_spelled() -> None:
    extended = merging.extend(tokenizer(), ["321 三百二十一"] * 50, 20)
    assert all(
        len(extended.decode(i).strip()) <= 1 for i in extended("321三百二十一", add_special_tokens=False).input_ids
    )


def test_special_tokens_outside_of_the_vocabulary_keep_their_ids() -> None:
    """In Llama 3 and Qwen they directly follow the vocabulary, where new tokens would be added."""
    own = tokenizer()
    own.add_special_tokens({"eos_token": "</s>"})
    assert own.eos_token_id == 300
    extended = merging.extend(own, NEW * 3, 20)
    assert extended.eos_token_id == 300
    assert extended.convert_tokens_to_ids("</s>") == 300
    assert len(extended) == 321
    assert extended("</s>", add_special_tokens=False).input_ids == [300]


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    from tests.training.tiny import tokenizer as words

    word_level: PreTrainedTokenizerFast = words()
    with pytest.raises(BadParams, match=r"byte-level BPE tokenizers only.*is a WordLevel"):
        merging.extend(word_level, NEW, 5)


def test_new_tokens_need_a_tokenizer() -> None:
    with pytest.raises(ValidationError, match="which is null"):
        tasks.Params(new_tokens=5)


def test_long_words_are_cut_for_training() -> None:
    backend = tokenizer().backend_tokenizer
    counts = merging.count_words(backend, ["x" * (3 * bpe.MAX_WORD + 5)])
    assert max(map(len, counts)) <= bpe.MAX_WORD
    assert sum(len(word) * count for word, count in counts.items()) == 3 * bpe.MAX_WORD + 5
