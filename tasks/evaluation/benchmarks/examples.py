"""From rows to examples: the fields of each type, the prompt and the answer as texts, and the few-shot examples.

Every row gives examples or is counted with the reason why it does not.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.errors import BadInput
from tasks.evaluation.benchmarks import fields, gold, rows
from tasks.evaluation.benchmarks.fields import FieldProblem
from tasks.evaluation.benchmarks.params import BenchmarkSet, FewShot, Rows
from tasks.evaluation.inputs import evenly_spaced
from tasks.evaluation.items import text_id

Message = dict[str, str]
MAX_REASONS = 5  # in an error message


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a test set.

    contexts, continuations: what precedes each choice, and the choice as the model continues with it; gold: the index
    of the right one. shots: solved examples, as (prompt, answer). messages: the chat of a generation set, else empty.
    choices: the choices as the file has them.
    """

    id: str
    group: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...] = ()
    gold: int = 0
    references: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    choices: tuple[str, ...] = ()
    shots: tuple[tuple[str, str], ...] = ()

    @property
    def answer(self) -> str:
        """The right answer, as a few-shot example has it."""
        return self.continuations[self.gold] if self.continuations else _joined(self.contexts[0], self.references[0])


class Loaded:
    """The examples of a set. unusable: reason -> number of rows; first: reason -> description of the first one.

    It is no dataclass, because Prefect would look into every example for futures.
    """

    def __init__(self) -> None:
        self.examples: list[Example] = []
        self.num_rows = 0
        self.num_examples = 0  # before `max_items`
        self.num_repeated = 0  # examples with the id of an earlier one
        self.unusable: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def leave_out(self, reason: str, place: str, received: Any) -> None:
        """Count a row, or an element of it, that gives no example."""
        self.unusable[reason] += 1
        detail = f", received {_short(received)}" if received is not None else ""
        self.first.setdefault(reason, f"{place}{detail}")

    def descriptions(self) -> list[str]:
        """One phrase for each reason, the most frequent first."""
        return [f"{count:,} × {reason} (first: {self.first[reason]})" for reason, count in self.unusable.most_common()]


def load(params: BenchmarkSet) -> Loaded:
    """The examples of a set, with their few-shot examples. Raises BadInput."""
    loaded = _load(params, params)
    examples = loaded.examples
    loaded.examples = evenly_spaced(examples, params.max_items) if params.max_items else examples
    if params.few_shot:
        shots = examples
        if params.few_shot.rows is not None:
            try:
                shots = _load(params, params.few_shot.rows).examples
            except BadInput as error:
                raise BadInput(f"few_shot: {error}") from None
        loaded.examples = [replace(one, shots=_shots(one, shots, params.few_shot)) for one in loaded.examples]
    return loaded


def _load(params: BenchmarkSet, place: Rows) -> Loaded:
    loaded, ids = Loaded(), Counter[str]()
    for row in rows.read(place):
        loaded.num_rows += 1
        if row.problem:
            loaded.leave_out(row.problem, row.place, None)
            continue
        try:
            elements = list(_elements(row, place))
        except FieldProblem as problem:
            loaded.leave_out(problem.reason, row.place, problem.received)
            continue
        for values in elements:
            try:
                example = _example(params, values)
            except FieldProblem as problem:
                loaded.leave_out(problem.reason, row.place, problem.received)
            else:
                ids[example.id] += 1
                if ids[example.id] > 1:  # the same content again: the number makes the id unique
                    loaded.num_repeated += 1
                    example = replace(example, id=f"{example.id}-{ids[example.id]}")
                loaded.examples.append(example)
    loaded.num_examples = len(loaded.examples)
    num_unusable = loaded.unusable.total()
    if num_unusable > params.max_bad_rows * (num_unusable + loaded.num_examples) or not loaded.examples:
        lines = "".join(f"\n  {line}" for line in loaded.descriptions()[:MAX_REASONS])
        raise BadInput(
            f"{num_unusable:,} of {num_unusable + loaded.num_examples:,} items are unusable, more than max_bad_rows "
            f"({params.max_bad_rows:g}) allows:{lines}\n  Correct `fields` in params.yaml, or the file."
        )
    return loaded


def _elements(row: rows.Row, place: Rows) -> Iterator[dict[str, Any]]:
    values = fields.context(row.value, row.file)
    if place.explode is None:
        yield values
        return
    elements = fields.evaluate("explode", place.explode, values)
    if isinstance(elements, str) or not isinstance(elements, Sequence):
        raise FieldProblem("explode is not a list", elements)
    for element in elements:
        yield fields.with_element(values, element)


def _example(params: BenchmarkSet, values: Mapping[str, Any]) -> Example:
    """The example of one row. Raises FieldProblem."""
    named = {name: fields.evaluate(name, place, values) for name, place in params.fields.items()}
    make = {
        "multiple_choice": _multiple_choice, "cloze": _cloze, "generation": _generation,
        "minimal_pairs": _minimal_pair, "perplexity": _text,
    }[params.type]  # fmt: skip
    example = make(params, named, {**values, **named})
    content = (*example.contexts, *example.continuations, *example.references, *(str(m) for m in example.messages))
    return replace(
        example, id=str(named["id"]) if "id" in named else text_id(*content), group=str(named.get("group", ""))
    )


def _multiple_choice(params: BenchmarkSet, named: Mapping[str, Any], values: Mapping[str, Any]) -> Example:
    label = params.labels.get(_hashable(named["gold"]), named["gold"])
    if "contexts" in named:  # the choices differ in what precedes a common continuation
        contexts = gold.texts("contexts", named["contexts"])
        continuation = gold.text("continuation", named["continuation"])
        continuations = [_joined(context, continuation) for context in contexts]
        choices = contexts
    else:
        choices = gold.texts("choices", named["choices"])
        letters = list(gold.LETTERS[: len(choices)])
        names = {**values, "choices": choices, "letters": letters}
        contexts = [_prompt(params, named, names, "question")] * len(choices)
        continuations = [
            fields.render(params.answer, {**names, "choice": choice, "letter": letter, "index": number})
            if params.answer
            else _joined(contexts[number], choice)
            for number, (choice, letter) in enumerate(zip(choices, letters, strict=True))
        ]
    if len(choices) < 2:
        raise FieldProblem("there are fewer than two choices", choices)
    return Example(
        "", "", tuple(contexts), tuple(continuations), gold.index(label, choices, params.gold_is),
        choices=tuple(choices),
    )  # fmt: skip


def _cloze(params: BenchmarkSet, named: Mapping[str, Any], values: Mapping[str, Any]) -> Example:
    context = _prompt(params, named, values, "context")
    continuation = gold.text("continuation", named["continuation"])
    answer = fields.render(params.answer, {**values, "choice": continuation}) if params.answer else ""
    return Example("", "", (context,), (answer or _joined(context, continuation),))


def _minimal_pair(params: BenchmarkSet, named: Mapping[str, Any], values: Mapping[str, Any]) -> Example:
    sentences = (gold.text("good", named["good"]), gold.text("bad", named["bad"]))
    if sentences[0] == sentences[1]:
        raise FieldProblem("good and bad are equal", sentences[0])
    return Example("", "", ("", ""), sentences, choices=sentences)


def _text(params: BenchmarkSet, named: Mapping[str, Any], values: Mapping[str, Any]) -> Example:
    return Example("", "", (gold.text("text", named["text"]),))


def _generation(params: BenchmarkSet, named: Mapping[str, Any], values: Mapping[str, Any]) -> Example:
    references = named["references"]
    if (written := gold.written_list(references)) and all(isinstance(one, str) for one in written):
        raise FieldProblem(
            "references may be one text or a list that is written as JSON; set it to `= COLUMN | from_json` for the "
            "list, or to `= [COLUMN]` for the text", references,
        )  # fmt: skip
    texts = gold.texts("references", references) if isinstance(references, list | tuple) else [str(references)]
    if params.extract_reference:
        from tasks.evaluation.text_scores import extract

        extracted = [extract(text, params.extract_reference) for text in texts]
        if None in extracted:
            raise FieldProblem("extract_reference does not match the reference", texts)
        texts = [text for text in extracted if text is not None]
    if not texts or not any(text.strip() for text in texts):
        raise FieldProblem("references is empty")
    if "messages" in named:
        return Example("", "", ("",), references=tuple(texts), messages=tuple(_messages(named["messages"])))
    return Example("", "", (_prompt(params, named, values, "prompt"),), references=tuple(texts))


def _messages(value: Any) -> Iterator[Message]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise FieldProblem("messages is not a list of {role, content}", value)
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise FieldProblem("messages is not a list of {role, content}", message)
        yield {"role": str(message["role"]), "content": str(message["content"])}


def _prompt(params: BenchmarkSet, named: Mapping[str, Any], values: Mapping[str, Any], field_name: str) -> str:
    if params.prompt:
        return fields.render(params.prompt, values)
    return gold.text(field_name, named[field_name]) if named.get(field_name, "") != "" else ""


def _joined(context: str, continuation: str) -> str:
    """The continuation with a space before it where one is usual: not after a space or next to Chinese."""
    is_joined = not context or context[-1].isspace() or continuation[:1].isspace()
    return continuation if is_joined or _is_wide(context[-1]) or _is_wide(continuation[:1]) else f" {continuation}"


def _is_wide(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def _shots(example: Example, candidates: Sequence[Example], few_shot: FewShot) -> tuple[tuple[str, str], ...]:
    """(prompt, answer) of the solved examples in front of `example`, which is never one of them."""
    usable = [one for one in candidates if one.contexts != example.contexts or one.answer != example.answer]
    if few_shot.order == "random":
        usable = random.Random(f"{few_shot.seed}/{example.id}").sample(usable, min(few_shot.num, len(usable)))
    if len(usable) < few_shot.num:
        raise BadInput(
            f"there are {len(usable)} few-shot examples that differ from the question, "
            f"but `few_shot.num` is {few_shot.num}. Decrease it, or name more rows in `few_shot.rows`."
        )
    return tuple((one.contexts[min(one.gold, len(one.contexts) - 1)], one.answer) for one in usable[: few_shot.num])


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
