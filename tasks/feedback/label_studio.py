"""Votes as tasks of Label Studio with its tag `Pairwise`, and its annotations as records of the feedback log.

The format is the JSON of Label Studio (https://labelstud.io/guide/task_format): `data` has the texts, and each entry
of `annotations` a result of the type `pairwise`, whose value is {"selected": "left"} or {"selected": "right"}. An
annotation without a selection is a tie.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.errors import BadInput

LABELING_CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="vote" toName="answer1,answer2"/>
  <Text name="answer1" value="$answer1"/>
  <Text name="answer2" value="$answer2"/>
  <TextArea name="reason" toName="prompt" perRegion="false"/>
</View>
"""
SIDES = ("left", "right")
WAS_SKIPPED = "".join(("was_cancel", "led"))  # the key of Label Studio, in its spelling
NAMES = ("answer1", "answer2")


def to_label_studio(records: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return a task for each two answers that were compared, with its annotations, and the actions without a task.

    The answers are in the order in which they were shown. The pairs of a ranking become tasks of their own.
    """
    tasks: dict[str, dict[str, Any]] = {}
    not_exported: Counter[str] = Counter()
    for record in records:
        pairs = list(_pairs(record))
        if not pairs:
            not_exported[str(record.get("action"))] += 1
        for first, second, selected in pairs:
            answers = [record["answers"][index] for index in (first, second)]
            data = {
                "prompt": "\n\n".join(message["content"] for message in record["prompt"]),
                **{name: answer["text"] for name, answer in zip(NAMES, answers, strict=True)},
                "models": [answer.get("model", "") for answer in answers],
                "versions": [answer.get("version", "") for answer in answers],
                "messages": list(record["prompt"]),
                "conversation": record.get("conversation", ""),
            }
            key = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
            task = tasks.setdefault(key, {"id": len(tasks) + 1, "data": data, "annotations": []})
            task["annotations"].append(_annotation(record, selected))
    return list(tasks.values()), not_exported


def _pairs(record: Mapping[str, Any]) -> Iterator[tuple[int, int, str | None]]:
    """The indices of the answers on the left and on the right, and the side that was selected."""
    if record.get("action") == "comparison":
        left, right = record["order"]
        choice = record["choice"]
        yield left, right, SIDES[int(choice != left)] if choice in (0, 1) else None
    elif record.get("action") == "ranking":
        ranks, order = record["ranks"], record.get("order") or list(range(len(record["ranks"])))
        for position, left in enumerate(order):
            for right in order[position + 1 :]:
                yield left, right, None if ranks[left] == ranks[right] else SIDES[int(ranks[left] > ranks[right])]


def _annotation(record: Mapping[str, Any], selected: str | None) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    if selected is not None:
        results.append(
            {"from_name": "vote", "to_name": ",".join(NAMES), "type": "pairwise", "value": {"selected": selected}}
        )
    if record.get("reason"):
        value = {"text": [record["reason"]]}
        results.append({"from_name": "reason", "to_name": "prompt", "type": "textarea", "value": value})
    return {
        "completed_by": {"email": str(record["annotator"])}, "created_at": record.get("time", ""),
        WAS_SKIPPED: False, "result": results,
    }  # fmt: skip


def from_label_studio(tasks: Sequence[Any]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return a comparison of the feedback log for each annotation, and the numbers of what gives none, by reason.

    The same annotation has the same id, so that a file that is imported twice gives its votes once. Raises BadInput,
    with the number of the task, for a file of another format.
    """
    records: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    for number, task in enumerate(tasks, 1):
        try:
            data, annotations = task["data"], task.get("annotations", [])
            if not annotations:
                skipped["a task without an annotation"] += 1
            for annotation in annotations:
                if annotation.get(WAS_SKIPPED):
                    skipped["a task that the annotator skipped"] += 1
                else:
                    records.append(_record(data, annotation))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadInput(
                f"Task {number} is no pairwise task of Label Studio ({type(error).__name__}: {error}). Expected is its "
                'export format JSON: a list of tasks with "data" and "annotations", whose results have the type '
                '"pairwise". The smaller format JSON-MIN does not contain all of it.'
            ) from None
    return records, skipped


def _record(data: Mapping[str, Any], annotation: Mapping[str, Any]) -> dict[str, Any]:
    results = {result["type"]: result for result in annotation["result"]}
    pairwise = results.get("pairwise")
    names = pairwise["to_name"].split(",") if pairwise else NAMES
    texts = [data[name] for name in names]
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{', '.join(names)} are not two texts of `data`")
    choice: int | str = SIDES.index(pairwise["value"]["selected"]) if pairwise else "tie"
    messages = data.get("messages") or [{"role": "user", "content": data["prompt"]}]
    person = annotation.get("completed_by", "")
    annotator = (
        str(person.get("email") or person.get("id")) if isinstance(person, Mapping) else f"label-studio-{person}"
    )
    models, versions = (data.get(key) or ["", ""] for key in ("models", "versions"))
    answers = [
        {"text": text, "model": model, "version": version}
        for text, model, version in zip(texts, models, versions, strict=True)
    ]
    identity = json.dumps([messages, texts, annotator, annotation.get("created_at", "")], sort_keys=True)
    record = {
        "id": f"ls-{hashlib.sha256(identity.encode()).hexdigest()[:24]}", "action": "comparison",
        "annotator": annotator, "conversation": str(data.get("conversation", "")), "prompt": messages,
        "answers": answers, "order": [0, 1], "choice": choice,
    }  # fmt: skip
    if annotation.get("created_at"):
        record["time"] = annotation["created_at"]
    if "textarea" in results:
        record["reason"] = "\n".join(results["textarea"]["value"]["text"])
    return record
