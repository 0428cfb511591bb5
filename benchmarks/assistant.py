"""Ask the assistant of a run 300 held-out questions in wordings that it was never trained on.

    make run && make bench NAME=assistant            (MODEL=sft asks another model than the last policy)

The questions come from the source `skills` with another seed: 60 must be refused, and at least 100 of the others are
second or later turns of a conversation, whose earlier turns have the right answers. Answers are greedy. `right` counts
an answer that equals the expected one except for case and the closing mark.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows import chat
from tasks import chat_templates, gold, models
from tasks.conversations import Conversation
from tasks.generation import generate
from tasks.ingestion.sources import skills
from tasks.tokenization.chat import Encoder

DATA = Path("data")
SEED = 20_000  # not the seed of a default run, so that the questions are others
NUM_QUESTIONS, NUM_REFUSED, NUM_LATER_TURNS = 300, 60, 100
NUM_IN_HELD_OUT_RANGE = 6  # of the first turns: about numbers of ranges that training never sees
NUM_DRAWN = 6_000  # conversations from which the questions are chosen
MAX_NEW_TOKENS = 64


def questions() -> list[Conversation]:
    """The first conversations of a drawn list that fit the numbers above, in unseen wordings."""
    params = skills.Params(num_conversations=NUM_DRAWN, test_share=0.999_999, validation_share=0, seed=SEED)
    drawn = [record for record in skills.read(params) if isinstance(record, Conversation)]
    unseen = [record for record in drawn if record.split == "test" and record.metadata["unseen_wording"]]
    refused = [record for record in unseen if record.metadata["skill"] == "refusal"][:NUM_REFUSED]
    others = [record for record in unseen if record.metadata["skill"] != "refusal"]
    later = [record for record in others if record.metadata["turn"] > 1][:NUM_LATER_TURNS]
    first = [record for record in others if record.metadata["turn"] == 1]
    in_range = [record for record in first if record.metadata.get("held_out_range")][:NUM_IN_HELD_OUT_RANGE]
    first = [*in_range, *(record for record in first if not record.metadata.get("held_out_range"))]
    return [*refused, *later, *first[: NUM_QUESTIONS - len(refused) - len(later)]]


def answer(folder: str | Path, records: list[Conversation]) -> list[str]:
    """The greedy answers of a model to the last question of each conversation."""
    model, tokenizer = models.load_causal(folder)
    prompts = Encoder(tokenizer).encode_prompts([list(record.messages[:-1]) for record in records])
    generated = generate(
        model, [[int(token) for token in prompt] for prompt in prompts], max_new_tokens=MAX_NEW_TOKENS,
        end_ids=chat_templates.end_ids(tokenizer, model), pad_id=tokenizer.pad_token_id, temperature=0.0, batch_size=64,
    )  # fmt: skip
    return chat_templates.ChatTemplate.of(tokenizer).texts(generated.answers)


def share(flags: Iterable[bool]) -> float:
    """The share of true flags, or NaN if there is none."""
    values = list(flags)
    return round(sum(values) / len(values), 4) if values else float("nan")


def main() -> None:
    """Print wrong answers on stderr and one line of JSON on stdout."""
    folder = chat.find_model(os.environ.get("MODEL"), DATA)
    records = questions()
    answers = answer(folder, records)
    rows: list[tuple[dict[str, Any], str, bool]] = [
        (dict(record.metadata), text, gold.correct(text, record.metadata))
        for record, text in zip(records, answers, strict=True)
    ]
    refusals = {gold.normalize(str(about["answer"])) for about, _, _ in rows if about["skill"] == "refusal"}
    by_skill = defaultdict(list)
    for record, (about, text, is_right) in zip(records, rows, strict=True):
        by_skill[about["skill"]].append(is_right)
        if not is_right:
            print(f"{about['skill']}: {record.messages[-2]['content']} -> {text} ({about['answer']})", file=sys.stderr)
    body = {
        "model": str(folder),
        "questions": len(rows),
        "right": share(right for _, _, right in rows),
        "by_skill": {name: share(flags) for name, flags in sorted(by_skill.items())},
        "later_turns": share(right for about, _, right in rows if about["turn"] > 1),
        "refused": share(gold.normalize(text) in refusals for about, text, _ in rows if about["skill"] == "refusal"),
        "wrongly_refused": share(
            gold.normalize(text) in refusals for about, text, _ in rows if about["skill"] != "refusal"
        ),
        "unseen_wordings": share(about["unseen_wording"] for about, _, _ in rows),
        "held_out_range": share(right for about, _, right in rows if about.get("held_out_range")),
    }
    print(json.dumps(body))


if __name__ == "__main__":
    main()
