"""BLEU and chrF (sacrebleu) of each model's greedy translations of held-out numbers, per direction.

Corpus BLEU-4 with sacrebleu's `zh` tokenizer for Chinese answers and `13a` for the others; chrF2. The closing mark is
taken off both sides: style is not translation. Range 0 to 100. Intervals: sacrebleu's bootstrap over answers.
"""

import unicodedata
from typing import Any

from pydantic import BaseModel, Field

from tasks import gold
from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence, Finding
from tasks.reports import Score


class Params(BaseModel, frozen=True, extra="forbid"):
    """How often the corpus is resampled for the interval."""

    num_resamples: int = Field(200, ge=10)


def measure(evidence: Evidence, params: Params) -> Finding:
    """bleu and chrf, each by model and direction, such as "zh-en"."""
    if not evidence.verifiable:
        return Finding()
    answers = [str(prompt.metadata["answer"]) for prompt in evidence.prompts]
    directions = [str(prompt.metadata.get("direction", "all")) for prompt in evidence.prompts]
    finding = Finding({"bleu": {}, "chrf": {}})
    for name in evidence.policies:
        said = [answer.text for answer in evidence.answers(name, greedy=True)]
        for direction in sorted(set(directions)):
            rows = zip(said, answers, directions, strict=True)
            bleu, chrf = _corpus_scores([(s, a) for s, a, d in rows if d == direction], params)
            finding.scores["bleu"].setdefault(name, {})[direction] = bleu
            finding.scores["chrf"].setdefault(name, {})[direction] = chrf
    return finding


def _corpus_scores(pairs: list[tuple[str, str]], params: Params) -> tuple[Score, Score]:
    from sacrebleu.metrics import BLEU, CHRF

    said, references = ([gold.normalize(text) for text in texts] for texts in zip(*pairs, strict=True))
    made = []
    for metric in (BLEU(tokenize="zh" if any(map(_is_chinese, references)) else "13a"), CHRF()):
        _give_floats(metric)
        result: Any = metric.corpus_score(said, [references], n_bootstrap=params.num_resamples)
        made.append(intervals.score(result.score, result._mean - result._ci, result._mean + result._ci, len(pairs)))
    return made[0], made[1]


def _give_floats(metric: Any) -> None:
    """Its scores are 0.0 or a float32, which sacrebleu's own bootstrap cannot average."""
    compute = metric._compute_score_from_stats

    def computed(stats: Any) -> Any:
        result = compute(stats)
        result.score = float(result.score)
        return result

    metric._compute_score_from_stats = computed


def _is_chinese(text: str) -> bool:
    return any("CJK" in unicodedata.name(sign, "") for sign in text)
