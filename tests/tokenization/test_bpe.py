from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tasks.errors import BadModel, BadParams
from tasks.tokenization import bpe
from tests.tokenization.corpus import SENTENCES, tokenizer

UNUSUAL_TEXTS = [
    "",
    " ",
    "\n\n\t x",
    "naïve café",
    "👩‍👩‍👧 family",
    "한국어 русский",
    "\x00\x7f",
    "a\u0301",
    "321,654.00",
    "<|end|>",
]


@pytest.mark.parametrize("text", [*SENTENCES, *UNUSUAL_TEXTS])
def test_any_text_comes_back_unchanged(text: str) -> None:
    bpe_tokenizer = tokenizer()
    assert bpe_tokenizer.decode(bpe_tokenizer(text, add_special_tokens=False).input_ids) == text


def test_digits_and_chinese_numerals_stand_alone() -> None:
    trained = bpe.train(["三百二十一 321", "第二百三十一 132"] * 40, 272)
    pieces = [trained.decode(i) for i in trained("三百二十一 321 第二百", add_special_tokens=False).input_ids]
    for numeral in "三百二十一32":
        assert numeral in pieces
    assert all(sum(c in bpe.NUMERALS or c.isdigit() for c in piece) <= 1 for piece in pieces)


def test_words_and_han_words_merge_but_not_into_each_other() -> None:
    trained = tokenizer(340)
    pieces = [trained.decode(i) for i in trained("翻译成 the cat", add_special_tokens=False).input_ids]
    assert " the" in pieces
    assert "翻译成" in pieces
    pieces = [trained.decode(i) for i in trained("翻译成the", add_special_tokens=False).input_ids]
    assert pieces[0] == "翻译成"


def test_special_tokens_have_the_first_ids_and_their_roles(tmp_path: Path) -> None:
    trained = tokenizer()
    assert trained.convert_tokens_to_ids(list(bpe.SPECIAL)) == [0, 1, 2, 3, 4, 5]
    bpe.save(tmp_path, trained)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == (bpe.PAD, bpe.DOCUMENT, bpe.END)
    assert len(loaded) == 300
    assert loaded.chat_template == bpe.CHAT_TEMPLATE
    assert loaded(SENTENCES[0]).input_ids == trained(SENTENCES[0]).input_ids


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bpe.save(tmp_path / name, tokenizer())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_vocabulary_that_the_corpus_cannot_fill_is_refused() -> None:
    """ "abab" x 2: after the pairs a-b and ab-ab there is nothing left to merge."""
    with pytest.raises(BadParams, match=r"sufficient for 264 tokens only: 262 initial ones and 2 merges"):
        bpe.train(["abab", "abab"], 300)


def test_a_given_tokenizer_gets_only_what_it_lacks(tmp_path: Path) -> None:
    foreign = tokenizer()
    foreign.chat_template = None
    foreign.add_special_tokens({"eos_token": "</s>"})
    bpe.save(tmp_path, foreign)
    loaded = bpe.load(str(tmp_path))
    assert loaded.eos_token == "</s>"
    assert loaded.chat_template == bpe.CHAT_TEMPLATE
    assert {t: i for t, i in loaded.get_vocab().items() if t in foreign.get_vocab()} == foreign.get_vocab()


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"tokenization\.tokenizer"):
        bpe.load(str(tmp_path / "nothing"))


LONG_RUNS = ["a", " ", "\n", " \n", "-", "-\n", "中", "é", "xy", "\u0301"]


@pytest.mark.parametrize("run", LONG_RUNS)
def test_no_word_is_longer_than_the_bound_so_that_training_is_linear(run: str) -> None:
    """The work of training is at most the sum of the squares of the lengths of the words."""
    backend = tokenizer().backend_tokenizer
    work = []
    for size in (3000, 6000):
        words = [span for _, span in backend.pre_tokenizer.pre_tokenize_str(run * size)]
        assert [begin for begin, _ in words[1:]] == [end for _, end in words[:-1]]
        work.append(sum((end - begin) ** 2 for begin, end in words))
    assert work[1] < 2.2 * work[0]
    assert work[1] <= 2 * (bpe.MAX_WORD + 1) * len(run) * 6000


def test_a_long_run_can_be_trained_on_and_comes_back() -> None:
    text = "abcdefghij" * 25_000
    trained = bpe.train([*SENTENCES * 3, text], 300)
    assert trained.decode(trained(text, add_special_tokens=False).input_ids) == text
