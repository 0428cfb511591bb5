"""Read preferences from a row: chosen and rejected answers, two answers with a verdict, or a ranked list of answers.

Nothing is guessed: a row whose format is unknown is quarantined, and the reason names its columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.conversations import Message
from tasks.ingestion import ranking
from tasks.ingestion.chat_formats import ANSWER_KEYS, QUESTION_KEYS, read_prompt
from tasks.ingestion.decoding import UnusableRecord
from tasks.ingestion.fields import Columns, is_absent, parse_json_text, wrong_type
from tasks.ingestion.messages import make_turn, read_transcript
from tasks.ingestion.ranking import AnswerPairs
from tasks.ingestion.turns import Turn, TurnParams, arrange, to_messages

_SCORE_COLUMNS = [
    tuple(pattern.format(key=key, side=side) for side in ("chosen", "rejected"))
    for key in (*ranking.SCORE_KEYS, ranking.RANK_KEY)
    for pattern in ("{key}_{side}", "{side}_{key}", "{side}-{key}")
]


@dataclass(frozen=True, slots=True)
class LabeledAnswer:
    """One answer with a label (KTO): good or bad."""

    prompt: list[Message]
    answer: str
    is_good: bool


def read_preferences(
    columns: Columns, params: TurnParams, max_pairs: int
) -> tuple[list[Message], AnswerPairs] | LabeledAnswer:
    """Return the prompt of one row and its pairs (chosen, rejected), or its labeled answer. Raises UnusableRecord."""
    chosen, rejected = columns.present("chosen"), columns.present("rejected")
    if chosen or rejected:
        return _read_chosen_and_rejected(columns, params, chosen, rejected)
    for verdict_format in _VERDICT_FORMATS:
        if all(columns.get(name) is not None for name in verdict_format.answers):
            return _read_verdict(columns, params, verdict_format)
    ranked = _read_ranked(columns)
    if ranked is not None:
        prompt = arrange(read_prompt(columns, params), "user", params, columns.changes)
        name, answers = ranked
        return to_messages(prompt), ranking.choose_pairs(answers, name, max_pairs, columns.changes)
    return _read_labeled_answer(columns, params)


def _read_chosen_and_rejected(
    columns: Columns, params: TurnParams, chosen: Sequence[tuple[str, Any]], rejected: Sequence[tuple[str, Any]]
) -> tuple[list[Message], AnswerPairs]:
    if len(chosen) > 1 or len(rejected) > 1:
        names = ", ".join(repr(name) for name, _ in (*chosen, *rejected))
        detail = f"Several columns have a chosen or a rejected answer: {names}. Name the right ones under `fields`."
        raise UnusableRecord("ambiguous", detail, chosen[0][0] if chosen else rejected[0][0])
    _check_scores(columns)
    stated_prompt = read_prompt(columns, params) if _has_prompt(columns) else []
    if not rejected:
        raise columns.missing("rejected answer", "rejected")
    if chosen:
        better = _read_answer(*chosen[0], params, columns)
    elif stated_prompt and stated_prompt[-1].role == "assistant":  # swift: the last message is the better answer
        better, stated_prompt = [stated_prompt[-1]], stated_prompt[:-1]
    else:
        raise columns.missing("chosen answer", "chosen")
    worse = _read_answer(*rejected[0], params, columns)
    prompt = _merge_prompts(columns, stated_prompt, better, worse, rejected[0][0])
    return _finish_pair(columns, params, prompt, better[-1].content, worse[-1].content, rejected[0][0])


def _has_prompt(columns: Columns) -> bool:
    return bool(columns.present("messages", "conversations", "input", *QUESTION_KEYS))


def _read_answer(name: str, value: Any, params: TurnParams, columns: Columns) -> list[Turn]:
    """Return an answer alone, or a transcript that ends with it; the last message is from the assistant."""
    turns = read_transcript(value, name, params, columns.changes)
    if turns is None:
        turns = [make_turn("assistant", value, name, columns.changes)]
    if not turns or turns[-1].role != "assistant":
        raise UnusableRecord("bad_roles", f"{name!r} does not end with a message of the assistant.", name)
    if not turns[-1].content:
        raise UnusableRecord("empty_text", f"{name!r} is empty.", name)
    return turns


def _merge_prompts(
    columns: Columns, stated_prompt: list[Turn], better: list[Turn], worse: list[Turn], name: str
) -> list[Turn]:
    """Return the messages before the answers, which the row states once, or before each answer, or both."""
    shorter, longer = sorted((better[:-1], worse[:-1]), key=len)
    if shorter != longer and not (not shorter and stated_prompt and _is_end_of(longer, stated_prompt)):
        detail = "The chosen and the rejected answer do not follow the same messages."
        raise UnusableRecord("different_prompts", detail, name)
    if (
        stated_prompt
        and stated_prompt[-1].role == "assistant"
        and stated_prompt[-1].content in (better[-1].content, worse[-1].content)
    ):
        columns.changes["the last message of a prompt is dropped because it is one of the answers"] += 1
        stated_prompt = stated_prompt[:-1]
    if not longer or _is_end_of(longer, stated_prompt):
        return stated_prompt
    if not stated_prompt or _is_end_of(stated_prompt, longer) or _is_contained(stated_prompt, longer):
        return longer
    detail = "The prompt of the row and the messages before its answers differ."
    raise UnusableRecord("different_prompts", detail, name)


def _is_end_of(end: Sequence[Turn], turns: Sequence[Turn]) -> bool:
    return len(end) <= len(turns) and list(turns[len(turns) - len(end) :]) == list(end)


def _is_contained(stated_prompt: Sequence[Turn], turns: Sequence[Turn]) -> bool:
    contents = {(turn.role, turn.content) for turn in turns}
    return all((turn.role, turn.content) in contents for turn in stated_prompt)


def _finish_pair(
    columns: Columns, params: TurnParams, prompt: list[Turn], better: str, worse: str, name: str
) -> tuple[list[Message], AnswerPairs]:
    if better == worse:
        detail = "The chosen and the rejected answer are identical, apart from white space at their ends."
        raise UnusableRecord("no_difference", detail, name)
    return to_messages(arrange(prompt, "user", params, columns.changes)), [(better, worse)]


def _check_scores(columns: Columns) -> None:
    """Raise UnusableRecord if the scores of the chosen and the rejected answer are equal, or in the wrong order."""
    for names in _SCORE_COLUMNS:
        values = [ranking.parse_score(columns.get(name), name) for name in names]
        if values[0] is None or values[1] is None:
            continue
        difference = values[0] - values[1]
        if difference == 0:
            raise UnusableRecord("tie", f"{names[0]!r} and {names[1]!r} are equal.", names[0])
        if (difference > 0) == (ranking.RANK_KEY in names[0]):
            detail = f"By {names[0]!r} and {names[1]!r}, the rejected answer is the better one."
            raise UnusableRecord("contradictory_scores", detail, names[0])


@dataclass(frozen=True, slots=True)
class _VerdictFormat:
    """Two columns with answers, and columns that say which is better: `better` maps their value to 0, 1 or None."""

    answers: tuple[str, str]
    verdicts: tuple[str, ...]
    better: Callable[[Any], int | None]  # None for a tie; KeyError or ValueError for an unknown value


def _choice(values: Mapping[str, int | None]) -> Callable[[Any], int | None]:
    def choose(value: Any) -> int | None:
        text = str(int(value)) if isinstance(value, bool | float) and value == int(value) else str(value)
        return values[text.strip().lower()]

    return choose


def _between_one_and_two(value: Any) -> int | None:
    """1 prefers the first answer and 2 the second one (AlpacaFarm), as do the numbers near them (AlpacaEval)."""
    number = float(value)
    if isinstance(value, bool) or not (number == 0 or 1 <= number <= 2):
        raise ValueError
    return None if number in (0, 1.5) else int(number > 1.5)


def _sign(value: Any) -> int | None:
    """A negative number prefers the first answer (HelpSteer2 and 3)."""
    number = float(value)
    if number != number or isinstance(value, bool):
        raise ValueError
    return None if number == 0 else int(number > 0)


_TIES: dict[str, int | None] = dict.fromkeys(("tie", "tie (bothbad)", "both_bad", "bothbad"), None)
_ARENA = _choice({"model_a": 0, "model_b": 1, "a": 0, "b": 1, **_TIES})
_INDEX = _choice({"0": 0, "1": 1})
_VERDICT_FORMATS = (
    _VerdictFormat(("response_0", "response_1"), ("better_response_id",), _INDEX),  # PKU-SafeRLHF
    _VerdictFormat(("human_ref_A", "human_ref_B"), ("labels",), _choice({"1": 0, "0": 1})),  # SHP
    _VerdictFormat(("response_1", "response_2"), ("preference_strength",), _sign),  # HelpSteer2
    _VerdictFormat(("response1", "response2"), ("overall_preference",), _sign),  # HelpSteer3
    _VerdictFormat(("conversation_a", "conversation_b"), ("winner",), _ARENA),  # Chatbot Arena
    _VerdictFormat(("response_a", "response_b"), ("winner",), _ARENA),
    _VerdictFormat(("output_1", "output_2"), ("preference",), _between_one_and_two),
)
VERDICT_COLUMNS = tuple(
    dict.fromkeys(
        [
            *(name for f in _VERDICT_FORMATS for name in (*f.answers, *f.verdicts)),
            *ranking.LIST_KEYS,
            *(name for names in _SCORE_COLUMNS for name in names),
        ]
    )
)


def _read_verdict(
    columns: Columns, params: TurnParams, verdict_format: _VerdictFormat
) -> tuple[list[Message], AnswerPairs]:
    name, value = next(
        ((name, columns.get(name)) for name in verdict_format.verdicts if columns.get(name) is not None), ("", None)
    )
    expected = ", ".join(verdict_format.verdicts)
    if value is None:
        raise columns.missing(f"column {expected} that says which answer is better", reason="unknown_format")
    try:
        better_index = verdict_format.better(value)
    except (KeyError, ValueError, TypeError, OverflowError):
        detail = f"{name!r} is {str(value)[:40]!r}, which does not say which of two answers is better."
        raise UnusableRecord("wrong_type", detail, name) from None
    if better_index is None:
        raise UnusableRecord("tie", f"{name!r} is {str(value)[:40]!r}: neither answer is better.", name)
    answers = [_read_answer(n, columns.get(n), params, columns) for n in verdict_format.answers]
    better, worse = answers[better_index], answers[1 - better_index]
    stated_prompt = _read_prompt_of_verdict(columns, params) if len(better) == 1 else []
    prompt = _merge_prompts(columns, stated_prompt, better, worse, name)
    return _finish_pair(columns, params, prompt, better[-1].content, worse[-1].content, name)


def _read_prompt_of_verdict(columns: Columns, params: TurnParams) -> list[Turn]:
    """Return the prompt. SHP has it as the text of `history`."""
    name, history = columns.first("history")
    if _has_prompt(columns) or not isinstance(history, str) or columns.get("human_ref_A") is None:
        return read_prompt(columns, params)
    return [make_turn("user", history, name, columns.changes)]


def _read_ranked(columns: Columns) -> tuple[str, list[ranking.RankedAnswer]] | None:
    """Return the name and the answers of a ranked list, None if the row has none."""
    lists = columns.competing("answers")
    # LLaMA-Factory once had the answers to an instruction, the best first, as the list `output`.
    lists += [(name, value) for name, value in columns.present("output") if isinstance(value, list)]
    if not lists:
        return None
    if len(lists) > 1:
        detail = f"Several columns have lists of answers: {', '.join(repr(name) for name, _ in lists)}."
        raise UnusableRecord("ambiguous", f"{detail} Name the right one under `fields` of the source.", lists[0][0])
    name, value = lists[0][0], parse_json_text(lists[0][1])
    for score_name in ranking.LIST_KEYS:
        scores = parse_json_text(columns.get(score_name))
        if isinstance(scores, list):
            return name, ranking.with_score_list(value, scores, name, score_name, columns.changes)
    is_best_first = name in (columns.fields.answers, columns.fields.output)
    return name, ranking.read_ranked_list(value, name, is_best_first, columns.changes)


def _read_labeled_answer(columns: Columns, params: TurnParams) -> LabeledAnswer:
    """Return the answer of a KTO row: a prompt, one answer and a label."""
    name, label = columns.first("label")
    answers = columns.present(*ANSWER_KEYS)
    has_transcript = bool(columns.present("messages", "conversations"))
    if is_absent(label) or not (has_transcript or (answers and _has_prompt(columns))):
        expected = "chosen and rejected answer, ranked list, verdict on two answers, or label"
        raise columns.missing(expected, reason="unknown_format")
    is_good = {"true": True, "false": False, "1": True, "0": False}.get(str(label).strip().lower())
    if is_good is None:
        raise wrong_type(name, label, "a boolean")
    turns = read_prompt(columns, params)
    if turns and turns[-1].role == "assistant":
        columns.note_unused(answers, "the messages")
        *turns, answer = turns
    elif len(answers) == 1:
        *_, answer = _read_answer(*answers[0], params, columns)
    else:
        raise columns.missing("single answer", *ANSWER_KEYS)
    if not answer.content:
        raise UnusableRecord("empty_text", "The answer is empty.", columns.fields.completion)
    return LabeledAnswer(to_messages(arrange(turns, "user", params, columns.changes)), answer.content, is_good)
