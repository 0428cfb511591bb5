"""Read a conversation from a row: messages, a transcript, or columns with the question and the answer.

Recognized are the formats of OpenAI, ShareGPT, Alpaca, Dolly, SQuAD, prompt and completion, question and answer, and
transcripts in the notations of HH-RLHF, ChatML and Guanaco.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.conversations import Message
from tasks.ingestion.decoding import UnusableRecord, clean_text
from tasks.ingestion.fields import Columns, Fields, Row, is_absent, normalize_name, parse_json_text, to_text, wrong_type
from tasks.ingestion.messages import make_turn, read_messages, read_transcript
from tasks.ingestion.turns import Turn, TurnParams, arrange, to_messages

QUESTION_KEYS = ("prompt", "instruction")
ANSWER_KEYS = ("completion", "response", "output")
INSTANCES = "instances"
PlainColumns = tuple[str, str, str]
"""The columns with the question, the text that is appended to it ("" if there is none) and the answer."""
_PARTS_OF_ORIGIN = ("text", "group", "split", "reason", "chosen", "rejected", "answers")
_TRANSCRIPT_STARTS = ("[", "{", "<|im_start|>", "#", "Human:")  # of texts that may contain several messages


def find_plain_columns(names: Sequence[str], fields: Fields) -> PlainColumns | None:
    """Return the columns of a row that has one question, one answer and no other part of a conversation, else None."""
    used: dict[str, str] = {}
    for name in names:
        keys = [key for key, _ in fields.keys_of_column.get(normalize_name(name), []) if key not in _PARTS_OF_ORIGIN]
        if len(keys) > 1 or name == INSTANCES or (keys and used.setdefault(keys[0], name) != name):
            return None
    questions, answers = used.keys() & {"instruction", "prompt"}, used.keys() & set(ANSWER_KEYS)
    has_input = used.keys() == {"instruction", "input", *answers}
    if fields.nested_names or len(answers) != 1 or not (has_input or used.keys() == questions | answers):
        return None
    return (used[questions.pop()], used.get("input", ""), used[answers.pop()]) if len(questions) == 1 else None


def read_plain(row: Row, columns: PlainColumns) -> list[Message] | None:
    """Return the messages of a plain row; None if any of its texts needs the complete rules of `read_conversation`.

    Most rows are plain, and reading them so is several times as fast.
    """
    texts: list[str] = []
    for column in columns:
        text = row[column] if column else ""
        if not isinstance(text, str):
            return None
        text = clean_text(text, column)
        if len(text) != len(text.strip()):
            return None
        texts.append(text)
    question, extra, answer = texts
    if not question or not answer or question.startswith(_TRANSCRIPT_STARTS):
        return None
    return [
        {"role": "user", "content": f"{question}\n\n{extra}" if extra else question},
        {"role": "assistant", "content": answer},
    ]


def read_conversation(columns: Columns, params: TurnParams) -> tuple[list[Message], list[int]]:
    """Return the messages of one row and the indices of answers that are not trained on; the last is an answer.

    Raises UnusableRecord.
    """
    _check_trained(columns)
    turns = read_prompt(columns, params)
    answers = columns.competing(*ANSWER_KEYS)
    if turns and turns[-1].role == "assistant":
        columns.note_unused(answers, "the messages")
    elif answers or (turns and not any(turn.role == "assistant" for turn in turns)):
        turns = [*turns, *_read_answer(columns, answers, params)]
    turns = arrange(turns, "assistant", params, columns.changes)
    untrained = [index for index, turn in enumerate(turns) if turn.role == "assistant" and not turn.is_trained]
    columns.changes["an answer is kept as context and not trained on (weight 0)"] += len(untrained)
    return to_messages(turns), untrained


def split_instances(row: Row) -> list[Row]:
    """Return the rows of Self-Instruct's {instruction, instances: [{input, output}, ...]}, or the row itself."""
    instances = row.get(INSTANCES)
    if not isinstance(instances, list) or not instances or not all(isinstance(item, Mapping) for item in instances):
        return [row]
    return [{**row, **instance, INSTANCES: None} for instance in instances]


def read_prompt(columns: Columns, params: TurnParams) -> list[Turn]:
    """Return the messages before the answer, including system message, tools and history; or all messages."""
    turns = _read_message_columns(columns, params)
    if turns is None:
        turns = [*_read_history(columns, params), *_read_question(columns, params)]
    else:
        columns.note_unused(columns.present("instruction", "input", "context", "history"), "the messages")
        _check_prompt_beside_messages(columns, turns)
    return _add_system(columns, turns, params)


def _check_trained(columns: Columns) -> None:
    """Raise UnusableRecord if the row itself says that it should not be trained on."""
    for key in ("label", "weight"):
        for name, value in columns.present(key):
            is_false = value is False or (isinstance(value, str) and value.strip().lower() == "false")
            is_zero = key == "weight" and str(value).strip() in ("0", "0.0")
            if is_false or is_zero:
                raise UnusableRecord(
                    "not_trained_on", f"{name!r} is {value!r}, so that the row is not trained on.", name
                )


def _read_message_columns(columns: Columns, params: TurnParams) -> list[Turn] | None:
    """Return the turns of a column of messages, or of a transcript in the column of texts; None if there is none."""
    candidates = columns.competing("messages", "conversations")
    contexts = columns.present("context")
    if not candidates and not columns.present(*QUESTION_KEYS, "input"):
        candidates = [(name, value) for name, value in contexts if isinstance(parse_json_text(value), list)]
        if not candidates and (text := columns.get(columns.fields.text)) is not None:
            return (
                read_transcript(text, columns.fields.text, params, columns.changes) if isinstance(text, str) else None
            )
    if not candidates:
        return None
    (name, value), *other_columns = candidates
    if any(parse_json_text(other) != parse_json_text(value) for _, other in other_columns):
        raise _ambiguous("messages", candidates)
    turns = read_transcript(value, name, params, columns.changes)
    if turns is None:
        raise wrong_type(name, value, "a list of messages, such a list as JSON text, or a transcript")
    return turns


def _check_prompt_beside_messages(columns: Columns, turns: Sequence[Turn]) -> None:
    """Count columns with a question that the messages do not contain; UltraChat repeats the first one."""
    contents = {turn.content for turn in turns}
    for name, value in columns.present("prompt"):
        if not isinstance(value, str) or value.strip() not in contents:
            columns.note_unused([(name, value)], "the messages")


def _read_question(columns: Columns, params: TurnParams) -> list[Turn]:
    """Return the turns of the column with the question, with the texts that belong to it appended."""
    questions = columns.competing(*QUESTION_KEYS)
    extras = columns.present("input", "context")
    if not questions:
        inputs = columns.present("input")
        if not inputs:
            if not columns.present(*ANSWER_KEYS):
                raise columns.missing("question and no answer", reason="unknown_format")
            raise columns.missing("question (such as prompt, instruction, question, messages)", *QUESTION_KEYS, "input")
        questions, extras = inputs[:1], columns.present("context")
        questions = [(name, to_text(value, name)) for name, value in questions]
    name, value = _choose_question(columns, questions)
    turns = read_transcript(value, name, params, columns.changes)
    if turns is None:
        turns = [make_turn("user", value, name, columns.changes)]
    if not turns or turns[-1].role != "user":
        columns.note_unused(extras, name)
        return turns
    question = turns[-1].content
    for extra_name, extra in extras:
        text = make_turn("user", to_text(extra, extra_name), extra_name, columns.changes).content
        if name == columns.fields.prompt and isinstance(extra, str) and text in question:
            columns.note_unused([(extra_name, extra)], name)  # the prompt is a template that contains it
        else:
            question += f"\n\n{text}"
    return [*turns[:-1], Turn("user", question)]


def _choose_question(columns: Columns, questions: Sequence[tuple[str, Any]]) -> tuple[str, Any]:
    """Return the only question; the instruction, if the other_columns are templates that contain it."""
    name, value = questions[0]
    other_columns = [(n, v) for n, v in questions[1:] if v != value]
    if not other_columns:
        return name, value
    instruction = columns.present("instruction")
    if len(instruction) == 1 and isinstance(instruction[0][1], str):
        templates = [pair for pair in questions if pair[0] != instruction[0][0]]
        if all(isinstance(v, str) and instruction[0][1].strip() in v for _, v in templates):
            columns.note_unused(templates, instruction[0][0])
            return instruction[0]
    raise _ambiguous("questions", questions)


def _read_history(columns: Columns, params: TurnParams) -> list[Turn]:
    """Return the earlier turns: pairs of a question and its answer, or messages; both also as JSON text."""
    name, value = columns.first("history")
    if value is None:
        return []
    entries = parse_json_text(value)
    if not isinstance(entries, list):
        raise wrong_type(name, value, "a list of [question, answer] pairs or of messages")
    if all(isinstance(entry, Mapping) for entry in entries):
        return read_messages(entries, name, params, columns.changes)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in entries):
        detail = f"{name!r} is not a list of [question, answer] pairs or of messages."
        raise UnusableRecord("wrong_type", detail, name)
    return [
        make_turn(role, "" if content is None else content, name, columns.changes)
        for pair in entries
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


def _add_system(columns: Columns, turns: list[Turn], params: TurnParams) -> list[Turn]:
    """Put the system message and the definitions of tools, if the row has them, before the other turns."""
    first: list[Turn] = []
    for name, value in columns.present("system"):
        first.append(make_turn("system", value, name, columns.changes))
    for name, value in columns.present("tools"):
        if is_absent(parse_json_text(value)):
            continue
        if params.tools != "keep":
            columns.changes["the definitions of tools are dropped"] += 1
            continue
        columns.changes["the definitions of tools are appended to the system message"] += 1
        tools = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        num_system = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
        texts = [turn.content for turn in (*first, *turns[:num_system]) if turn.content]
        definitions = make_turn("system", f"<tools>\n{tools.strip()}\n</tools>", name, columns.changes).content
        first, turns = [Turn("system", "\n\n".join([*dict.fromkeys(texts), definitions]))], turns[num_system:]
    return [*first, *turns]


def _read_answer(columns: Columns, answers: Sequence[tuple[str, Any]], params: TurnParams) -> list[Turn]:
    if not answers:
        answers = _read_reference_answers(columns)
    if not answers:
        raise columns.missing("answer (such as completion, response, output, answer)", *ANSWER_KEYS)
    (name, value), *other_columns = answers
    if any(other != value for _, other in other_columns):
        raise _ambiguous("answers", answers)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        if len({item.strip() for item in value}) > 1:
            detail = f"{name!r} has {len(value)} different answers, and a conversation has one."
            raise UnusableRecord("several_answers", f"{detail} A ranked list is read as `kind: preferences`.", name)
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = to_text(value, name)
    if not isinstance(value, str):
        turns = read_transcript(value, name, params, columns.changes)
        if turns is None:
            raise wrong_type(name, value, "a text")
        if not turns or turns[-1].role != "assistant":
            raise UnusableRecord("bad_roles", f"{name!r} does not end with a message of the assistant.", name)
        return turns
    return [make_turn("assistant", value, name, columns.changes)]


def _read_reference_answers(columns: Columns) -> list[tuple[str, Any]]:
    """Return the answers of SQuAD's {text: [...], answer_start: [...]}, if the row has them."""
    name, value = columns.first("answers")
    texts = value.get("text") if isinstance(value, Mapping) else None
    return [(name, texts)] if isinstance(texts, list) and not is_absent(texts) else []


def _ambiguous(things: str, candidates: Sequence[tuple[str, Any]]) -> UnusableRecord:
    names = [name for name, _ in candidates]
    detail = f"The columns {', '.join(map(repr, names))} have different {things}, and either could be meant."
    return UnusableRecord("ambiguous", f"{detail} Name the one to use under `fields` of the source.", names[0])
