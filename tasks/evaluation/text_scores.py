"""Scores of generated texts against references: exact match, token F1, BLEU, chrF and ROUGE.

BLEU and chrF are sacrebleu's, on the raw texts, with its signature. F1 is that of SQuAD, with one token for each
Chinese character. ROUGE is the F-measure of lower-case words (and Chinese characters) without stemming.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tasks import catalog
from tasks.errors import BadParams
from tasks.evaluation import intervals
from tasks.reports import Score

CORPUS_METRICS = ("bleu", "chrf")
ITEM_METRICS = ("exact_match", "f1", "rouge1", "rouge2", "rougeL")
METRICS = (*CORPUS_METRICS, *ITEM_METRICS)
CLOSING_MARKS = ".。!！"
TOKEN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_]+")


def extract(text: str, pattern: str) -> str | None:
    """The answer in `text`: the last match of `pattern`, and of it the last group that took part; None without one.

    The last match counts, because an answer stands at the end of a chain of thought.
    """
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    match = matches[-1]
    groups = [group for group in match.groups() if group is not None]
    return (groups[-1] if groups else match[0]).strip()


def item_score(metric: str, answer: str, references: Sequence[str], ignore_case: bool = True) -> float:
    """The score of one answer from 0 to 1: the best over all references."""
    functions: dict[str, Callable[..., float]] = {
        "exact_match": _exact_match, "f1": _f1, "rouge1": _rouge_n, "rouge2": _rouge_n, "rougeL": _rouge_l,
    }  # fmt: skip
    function = functions[metric]
    options: tuple[int, ...] = (ignore_case,) if metric == "exact_match" else ()
    if function is _rouge_n:
        options = (int(metric[-1]),)
    return max(float(function(answer, reference, *options)) for reference in references)


def corpus_scores(
    metric: str,
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    num_resamples: int = 500,
    tokenizer: str | None = None,
) -> tuple[Score, str, list[float]]:
    """BLEU or chrF of a corpus: the score, sacrebleu's signature, and the score of each sentence.

    references[i]: the references of answers[i]; their number may differ. tokenizer: that of BLEU in sacrebleu; null: zh
    for Chinese references, else 13a. Raises BadParams for an unknown one. Interval: the bootstrap of `intervals` over
    sentences, from their sufficient statistics.
    """
    import numpy as np

    scorer = _scorer(metric, references, tokenizer)
    streams = _streams(references)
    statistics = np.array(scorer._extract_corpus_statistics(list(answers), streams), np.float64)

    def of_sums(sums: Any) -> Any:
        flat = np.asarray(sums).reshape(-1, statistics.shape[1])
        values = [float(scorer._compute_score_from_stats(row.tolist()).score) for row in flat]
        return np.array(values).reshape(np.shape(sums)[:-1])

    score = intervals.bootstrap(statistics, of_sums, num_resamples=num_resamples)
    sentences = [float(value) for value in of_sums(statistics)]
    return score, str(scorer.get_signature().format()), sentences


def _scorer(metric: str, references: Sequence[Sequence[str]], tokenizer: str | None) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    if metric == "chrf":
        return CHRF()
    if tokenizer is not None:
        if tokenizer not in BLEU.TOKENIZERS:
            raise BadParams(f"no tokenizer {tokenizer!r} in sacrebleu; {catalog.suggest(tokenizer, BLEU.TOKENIZERS)}")
        return BLEU(tokenize=tokenizer)
    is_chinese = sum(is_han(text) for texts in references for text in texts) * 2 > sum(map(len, references))
    return BLEU(tokenize="zh" if is_chinese else "13a")


def is_han(text: str) -> bool:
    """Whether most letters of `text` are Chinese characters."""
    letters = [character for character in text if character.isalpha()]
    return 2 * sum("CJK" in unicodedata.name(character, "") for character in letters) > len(letters)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu reads them: stream k has the k-th reference of each answer, or None."""
    most = max(map(len, references))
    return [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]


def _exact_match(answer: str, reference: str, ignore_case: bool) -> bool:
    if not ignore_case:
        return answer.strip() == reference.strip()
    return _folded(answer) == _folded(reference)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().rstrip(CLOSING_MARKS).strip().casefold()


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def _f1(answer: str, reference: str) -> float:
    answered, right = _tokens(answer), _tokens(reference)
    if not answered or not right:
        return float(answered == right)
    return _f_measure((Counter(answered) & Counter(right)).total(), len(answered), len(right))


def _rouge_n(answer: str, reference: str, n: int) -> float:
    answered, right = (_ngrams(_tokens(text), n) for text in (answer, reference))
    return _f_measure((answered & right).total(), answered.total(), right.total())


def _rouge_l(answer: str, reference: str) -> float:
    answered, right = _tokens(answer), _tokens(reference)
    lengths = [0] * (len(right) + 1)  # of the longest common subsequence, row by row
    for token in answered:
        diagonal = 0
        for index, other in enumerate(right):
            above = lengths[index + 1]
            lengths[index + 1] = diagonal + 1 if token == other else max(above, lengths[index])
            diagonal = above
    return _f_measure(lengths[-1], len(answered), len(right))


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _f_measure(num_common: int, num_answered: int, num_right: int) -> float:
    return 2 * num_common / (num_answered + num_right) if num_common else 0.0
