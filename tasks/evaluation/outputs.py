"""Scores of texts that other systems wrote: files with one text per line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import catalog
from tasks.errors import BadInput, BadParams
from tasks.evaluation import intervals
from tasks.evaluation.text_scores import CORPUS_METRICS, METRICS, corpus_scores, item_score

Scores = dict[str, dict[str, Any]]


def score_files(
    metrics: Sequence[str], hypotheses: Sequence[Path], references: Sequence[Path], tokenizer: str | None = None
) -> dict[str, Scores]:
    """hypotheses file -> metric -> {value, low, high, n}, and sacrebleu's signature. Raises BadInput or BadParams."""
    for metric in metrics or [""]:
        if metric not in METRICS:
            raise BadParams(f"no metric {metric!r}; {catalog.suggest(metric, METRICS)}")
    by_reference = [_lines(path) for path in references]
    for path, lines in zip(references[1:], by_reference[1:], strict=True):
        _check_length(path, lines, references[0], by_reference[0])
    by_line = list(zip(*by_reference, strict=True))
    result = {}
    for path in hypotheses:
        lines = _lines(path)
        _check_length(path, lines, references[0], by_reference[0])
        result[str(path)] = {metric: _score(metric, lines, by_line, tokenizer) for metric in metrics}
    return result


def _score(
    metric: str, answers: list[str], references: Sequence[Sequence[str]], tokenizer: str | None
) -> dict[str, Any]:
    if metric in CORPUS_METRICS:
        score, signature, _ = corpus_scores(metric, answers, references, tokenizer=tokenizer)
        return {"value": score.value, "low": score.low, "high": score.high, "n": score.n, "signature": signature}
    score = intervals.unit_mean([item_score(metric, *row) for row in zip(answers, references, strict=True)])
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n}


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # as sacrebleu: other line separators are text
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}). Convert the file with iconv.") from error
    lines = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if not lines:
        raise BadInput(f"{path} is empty; expected one text per line.")
    return lines


def _check_length(path: Path, lines: Sequence[str], reference: Path, expected: Sequence[str]) -> None:
    if len(lines) != len(expected):
        raise BadInput(
            f"{path} has {len(lines):,} lines, but {reference} has {len(expected):,}; line n of each file must belong "
            "to the same item."
        )
