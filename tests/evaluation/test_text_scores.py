"""Scores of texts by hand, and files of other systems."""

from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from tasks.errors import BadInput, BadParams
from tasks.evaluation.outputs import score_files
from tasks.evaluation.text_scores import corpus_scores, extract, item_score


@pytest.mark.parametrize(
    ("metric", "answer", "references", "expected"),
    [
        ("exact_match", "Four.", ["five", "four"], 1),
        ("exact_match", "４", ["4"], 1),
        ("exact_match", "four", ["fourth"], 0),
        ("f1", "the big cat", ["the cat"], 2 * 2 / 5),
        ("f1", "三百二", ["三百二十"], 2 * 3 / 7),
        ("rouge1", "a b a", ["a a c"], 2 * 2 / 6),
        ("rouge2", "a b c", ["a b d"], 2 * 1 / 4),
        ("rougeL", "a x b y c", ["a b c"], 2 * 3 / 8),
        ("rougeL", "", ["a"], 0),
    ],
)
def test_scores_of_one_answer(metric: str, answer: str, references: list[str], expected: float) -> None:
    assert item_score(metric, answer, references) == pytest.approx(expected)


def test_case_counts_on_request() -> None:
    assert item_score("exact_match", "Four", ["four"], ignore_case=False) == 0


def test_the_last_match_is_the_answer_of_a_chain_of_thought() -> None:
    assert extract("2 and 3 make 5. The answer is 7.", r"answer is (\d+)|(\d+)") == "7"
    assert extract("The answer is 7, that is 8", r"(?:answer is) (\d+)") == "7"
    assert extract("#### 18 ", "#### .*") == "#### 18"
    assert extract("none", r"\d") is None


def test_bleu_is_that_of_sacrebleu_on_raw_text() -> None:
    answers = ["The cat sat on the mat.", "It is raining today!"]
    references = [["The cat sat on a mat.", "A cat sat on the mat."], ["It is raining today."]]
    expected = BLEU().corpus_score(
        answers, [["The cat sat on a mat.", "It is raining today."], [references[0][1], None]]
    )
    score, signature, sentences = corpus_scores("bleu", answers, references)
    assert score.value == pytest.approx(expected.score, abs=1e-6)
    assert signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert score.low <= score.value <= score.high
    assert len(sentences) == 2
    assert "tok:zh" in corpus_scores("bleu", ["三百"], [["三百二"]])[1]


def test_files_of_systems(tmp_path: Path) -> None:
    for name, lines in {"h1": "a b c d\nx\u2028y\n", "h2": "a b c d\r\nx y z w", "r": "a b c d\nx y z w\n"}.items():
        (tmp_path / name).write_bytes(lines.encode())
    paths = [tmp_path / "h1", tmp_path / "h2"]
    scores = score_files(["bleu", "exact_match"], paths, [tmp_path / "r"])
    assert scores[str(paths[1])]["bleu"]["value"] == pytest.approx(100)
    assert scores[str(paths[0])]["exact_match"]["value"] == 0.5
    assert scores[str(paths[1])]["bleu"]["n"] == 2


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "r").write_text("a\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"h has 2 lines, but .*r has 1"):
        score_files(["bleu"], [tmp_path / "h"], [tmp_path / "r"])
    with pytest.raises(BadInput, match="cannot be read"):
        score_files(["bleu"], [tmp_path / "x"], [tmp_path / "r"])
    with pytest.raises(BadParams, match=r"no metric 'blue'; did you mean 'bleu'"):
        score_files(["blue"], [tmp_path / "h"], [tmp_path / "h"])
    with pytest.raises(BadParams, match="no tokenizer 'xx' in sacrebleu"):
        score_files(["bleu"], [tmp_path / "h"], [tmp_path / "h"], "xx")
