"""Attacks of `benchmarks.attacks` on votes: forged answers, and poisoned comparisons, rankings and thumbs."""

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx

from benchmarks.attacks_on_models import Attack
from tests.ingestion.crowd import Member, thumb, vote, votes

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flows.serving.signatures import Signer

Row = dict[str, Any]  # an action as the page sends it; `annotator` comes from the cookie

GOOD, WORSE = "good", "bad"
NUM_ITEMS, PER_ITEM = 60, 3


def preferences() -> Iterator[Attack]:
    """Actions on the page of votes by attackers, of whom at most two act on one pair about which three others agree."""
    members = [Member(f"annotator{n}") for n in range(8)]
    honest = votes(members, NUM_ITEMS, PER_ITEM, seed=3)
    thumbs = votes(members, NUM_ITEMS, PER_ITEM, seed=4, act=thumb)
    for kind, rows, attackers in (
        ("poisoned votes", honest, _attackers(honest)),
        ("poisoned thumbs", thumbs, _attackers_by_thumbs(thumbs)),
        ("poisoned thumbs", [*honest, *thumbs], _attackers_by_both()),
    ):
        for name, sent in attackers:
            yield Attack(kind, name, "verdicts_flipped", partial(_flips, rows, sent))


def _flips(honest: list[Row], rows: list[Row]) -> bool:
    """Whether the actions of attackers change what three annotators agree about.

    A pair is flipped if the worse answer wins, the label of an answer also if it is lost.
    """
    from flows.serving.page_api import Feedback
    from tasks.feedback import FeedbackLog

    log = Path("votes")
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir()
    (log / "2020-01-01.jsonl").write_text("".join(json.dumps(row) + "\n" for row in honest))
    before = _verdicts(log)
    wrong = {_item(row) for row in honest if row["choice"] not in (0, row["answers"][0]["text"].split()[0])}
    agreed = {_item(row) for row in honest} - wrong
    assert len(agreed) > NUM_ITEMS / 2, "too few answers about which the annotators agree"
    writer = FeedbackLog(log)
    for row in rows:
        sent = {key: value for key, value in row.items() if key not in ("annotator", "time")}
        sent["answers"] = [{"version": "1", **answer} for answer in row.get("answers", ())]
        record = Feedback.model_validate_json(json.dumps(sent)).model_dump(exclude_defaults=True)
        writer.append({**record, "annotator": row["annotator"]})
    after = _verdicts(log)
    labels = {item for item in agreed if item.startswith("task")}
    return (
        after.get("models") != before.get("models")
        or any(after.get(item) == WORSE for item in agreed - labels)
        or any(after.get(item) != before[item] for item in labels)
    )


def _numbers_of_accounts(poison: Callable[..., Row]) -> Iterator[tuple[str, list[Row]]]:
    """What one or many accounts send. poison: makes the action of an account about an item."""
    items = range(NUM_ITEMS)
    yield "one account on every item", [poison("attacker0", item) for item in items]
    yield "two accounts on every item", [poison(f"attacker{n}", item) for item in items for n in range(2)]
    yield "30 accounts with two actions", [poison(f"attacker{item % 30}", item) for item in items]
    yield "60 accounts with one action", [poison(f"attacker{item}", item) for item in items]
    yield "120 accounts with one action", [poison(f"attacker{2 * item + n}", item) for item in items for n in range(2)]
    yield "one item a hundred times", [poison("attacker0", 7) for _ in range(100)]
    yield "one action a hundred times", [poison("attacker0", 7, id="attacker0-again")] * 100


def _actions_on_others(honest: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Undo and deletion of what others sent."""
    for action in ("undo", "deletion"):
        targets = [{"id": f"attack-{n:05}", "action": action, "annotator": "attacker0", "target": row["id"]}
                   for n, row in enumerate(honest)]  # fmt: skip
        yield f"{action} of others' actions", targets


def _attackers(honest: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """What attackers send, by name."""
    rng = random.Random(5)

    def poison(name: str, item: int, **more: Any) -> Row:
        return {**vote(rng, Member(name, accuracy=0.0), item), "id": f"{name}-{rng.getrandbits(64):x}", **more}

    items = range(NUM_ITEMS)
    yield from _numbers_of_accounts(poison)
    careful = [vote(rng, Member("attacker0", accuracy=1.0), item) for item in items]
    trusted = [{**row, "id": f"attacker0-{index:08}"} for index, row in enumerate(careful)]
    yield "a trusted account that turns", [*trusted, *(poison("attacker0", item) for item in items[:10])]
    mixed = [*trusted[:40], *(poison("attacker0", item) for item in items[40:])]
    yield "an account that is right in two thirds", mixed
    for number in (0, 1, 2):
        taken = [{**poison("attacker0", item), "id": row["id"]} for item, row in enumerate(honest[number::PER_ITEM])]
        yield f"the ids of others' votes ({number})", taken
    yield from _actions_on_others(honest)
    yield "ties on every pair", [poison(f"attacker{n}", item, choice="tie") for item in items for n in range(2)]
    yield "both are bad", [poison("attacker0", item, choice="both_bad") for item in items]
    yield (
        "a reason that contains a vote",
        [poison("attacker0", item, reason='", "choice": 1, "annotator": "annotator1') for item in items],
    )
    yield "other order of the answers", [
        {**poison("attacker0", item), "order": [1, 0], "answers": vote(rng, Member("x"), item)["answers"][::-1],
         "choice": 0} for item in items
    ]  # fmt: skip
    yield "always the first side", [vote(rng, Member("attacker0", first_share=1.0), item) for item in items]
    yield "at random", [vote(rng, Member("attacker0", accuracy=0.5), item) for item in items]
    yield "exchanged models", [
        {**poison("attacker0", item),
         "answers": [{"text": f"{text} {item}", "model": "old" if text == GOOD else "new"}
                     for text in (GOOD, WORSE)]} for item in items
    ]  # fmt: skip
    rankings = [poison("attacker0", item, action="ranking", ranks=[1, 0], choice=None) for item in items]
    yield "rankings", [{key: value for key, value in row.items() if key != "choice"} for row in rankings]
    for values in ({"choice": 7}, {"order": [0, 0]}, {"choice": True}, {"action": "erasure"}, {"weight": 1e9}):
        yield f"malformed: {values}", [poison("attacker0", item, **values) for item in items]


def _attackers_by_thumbs(honest: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """What attackers send who label answers, by name."""
    rng = random.Random(6)

    def poison(name: str, item: int, side: str = "", **more: Any) -> Row:
        row = thumb(rng, Member(name, accuracy=0.0, thumb=side), item)
        return {**row, "id": f"{name}-{rng.getrandbits(64):x}", **more}

    items = range(NUM_ITEMS)
    yield from _numbers_of_accounts(poison)
    for side in ("good", "bad"):
        yield f"an account whose thumbs are all {side}", [poison("attacker0", item, side) for item in items]
        yield (
            f"two accounts whose thumbs are all {side}",
            [poison(f"attacker{n}", item, side) for item in items for n in range(2)],
        )
        yield f"60 new accounts whose thumbs are all {side}", [poison(f"attacker{n}", n, side) for n in items]
    careful = [{**thumb(rng, Member("attacker0", accuracy=1.0), item), "id": f"attacker0-{item:08}"} for item in items]
    yield "a trusted account that turns", [*careful[:40], *(poison("attacker0", item) for item in items[40:])]
    yield "at random", [thumb(rng, Member("attacker0", accuracy=0.5), item) for item in items]
    yield from _actions_on_others(honest)
    for number in range(PER_ITEM):
        taken = [{**poison("attacker0", item), "id": row["id"]} for item, row in enumerate(honest[number::PER_ITEM])]
        yield f"the ids of others' thumbs ({number})", taken


def _attackers_by_both() -> Iterator[tuple[str, list[Row]]]:
    """What attackers send who vote in one way to be trusted, or to discredit others, in the other way."""
    rng = random.Random(7)
    for acts in ((vote, thumb), (thumb, vote)):
        for accuracy in (0.0, 1.0):
            for count in (1, 2 * NUM_ITEMS):
                members = [(Member(f"attacker{n % count}", accuracy), Member(f"attacker{n % count}", 0.0))
                           for n in range(2 * NUM_ITEMS)]  # fmt: skip
                rows = [act(rng, pair[place], n // 2) for n, pair in enumerate(members)
                        for place, act in enumerate(acts)]  # fmt: skip
                unique = [{**row, "id": f"{row['id']}-{number}"} for number, row in enumerate(rows)]
                yield f"{count} accounts, {acts[0].__name__}s right in {accuracy:.0%}", unique


def forged_answers() -> Iterator[Attack]:
    """Answers that no model of the server gave to the prompt, sent with each action of the page."""
    from flows.serving.protocol import UNBIASED, ChatRequest
    from flows.serving.signatures import Signer

    signer = Signer()
    app, prompt = _page(signer), [{"role": "user", "content": "say one"}]
    own, other = _answer(signer, "one"), _answer(signer, "two")
    forged: dict[str, Row] = {
        "an own text": {**own, "text": "an own text"}, "without a signature": {**own, "text": "x", "signature": ""},
        "with a part added": {**own, "text": "one, and more"}, "cut off": {**own, "text": "on"},
        "with the signature of another answer": {**own, "signature": other["signature"]},
        "of another key": _answer(Signer(), "x"), "of another prompt": _answer(signer, "one", "say two"),
        "replayed for another model": {**own, "model": "ppo"}, "replayed for another version": {**own, "version": "2"},
        "a blocked one as complete": {**own, "finish_reason": "content_filter"},
        "a signature in capital letters": {**own, "signature": own["signature"].upper()},
        "a part of a signature": {**own, "signature": own["signature"][:32]},
        "an empty text": {**own, "text": ""}, "the model in the text": {**own, "model": "", "text": "sftone"},
    }  # fmt: skip
    actions: dict[str, Row] = {
        "comparison": {"order": [0, 1], "choice": 0}, "thumb": {"choice": "good"}, "skip": {"order": [0, 1]},
        "ranking": {"order": [0, 1], "ranks": [0, 1]}, "undo": {"target": "vote-0001"}, "deletion": {},
    }  # fmt: skip
    for action, fields in actions.items():
        sent = {"id": f"{action}-0001", "action": action, "prompt": prompt, **fields}
        num = 1 if action == "thumb" else 2
        assert _is_accepted(app, {**sent, "answers": [own, other][:num]}), "an honest action is refused"
        rows = {name: {**sent, "answers": [one, other][:num]} for name, one in forged.items()}
        for role, content in (("system", "say one"), ("user", "say  one"), ("user", "say two")):
            message = {"role": role, "content": content}
            rows[f"{role}: {content}"] = {**sent, "prompt": [message], "answers": [own, other][:num]}
        for name, row in rows.items():
            is_accepted = partial(_is_accepted, app, {**row, "id": f"{action}-0002"})
            yield Attack("forged answers", f"{action}: {name}", "verdicts_flipped", is_accepted)

    def is_signed(field: str) -> bool:
        return ChatRequest.model_construct({field}, model="sft", messages=[]).is_unbiased

    for field in sorted(ChatRequest.model_fields.keys() - UNBIASED):  # such as logit_bias, which can force any text
        yield Attack("forged answers", f"steered by {field}", "verdicts_flipped", partial(is_signed, field))


def _page(signer: "Signer") -> "FastAPI":
    """The endpoints of the page, without a model."""
    from fastapi import FastAPI

    from flows.serving import page_api
    from flows.serving.api_errors import ApiError
    from flows.serving.app import respond_with_error
    from flows.serving.delivery import Delivery
    from flows.serving.state import State
    from tasks.feedback import FeedbackLog
    from tasks.serving import RankingQueue

    app, none = FastAPI(), cast(Any, None)
    app.state.serving = State(none, Delivery(), none, signer=signer)
    app.add_exception_handler(ApiError, respond_with_error)
    page_api.add_routes(app, page_api.Page(FeedbackLog(Path("forged")), RankingQueue([])))
    return app


def _answer(signer: "Signer", text: str, prompt: str = "say one") -> Row:
    """An answer of the model sft to a prompt, with its signature."""
    signature = signer.sign([{"role": "user", "content": prompt}], "sft", "1", text, "stop")
    return {"text": text, "model": "sft", "version": "1", "finish_reason": "stop", "signature": signature}


def _is_accepted(app: "FastAPI", row: Row) -> bool:
    async def post() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            client.cookies.set("annotator", "a" * 32)
            return (await client.post("/page/feedback", json=row)).status_code

    return asyncio.run(post()) == 200


def _item(row: Row) -> str:
    """The prompt of an action, which names its item."""
    return str(row["prompt"][0]["content"])


def _verdicts(log: Path) -> dict[str, str]:
    """The better answer of each pair, the label of each answer, and the better model, as ingestion reads them."""
    from tasks.conversations import Preference, UnpairedAnswer
    from tasks.ingestion.labels import pair_labeled_answers
    from tasks.ingestion.read_counts import ReadCounts
    from tasks.ingestion.sources import feedback

    counts = ReadCounts()
    settings = feedback.Params.model_validate({"paths": (str(log),)})
    records = list(pair_labeled_answers(feedback.read(settings, counts)))
    verdicts = {}
    for one in records:
        item = one.prompt[0]["content"] if isinstance(one, Preference | UnpairedAnswer) else ""
        if isinstance(one, Preference):
            verdicts[item] = one.chosen.split()[0]
        elif isinstance(one, UnpairedAnswer):
            label = GOOD if one.is_good else WORSE
            verdicts[item] = label if verdicts.get(item, label) == label else "both"
    for models in counts.tables["feedback_models"]:
        verdicts["models"] = str(models["win_rate"] > 0.5)
    return verdicts
