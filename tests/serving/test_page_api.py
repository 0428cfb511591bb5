"""The endpoints of the page without a browser: cookies, votes, prompts to rank."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.runtime import environment
from flows.serving import page_api
from flows.serving.page_api import Page
from flows.serving.signatures import Signer
from tasks.errors import BadParams
from tasks.feedback import FeedbackLog
from tasks.serving import RankingQueue
from tests.evaluation import small
from tests.serving.running import server

PROMPT = [{"role": "user", "content": "say one"}]
VOTE = {"action": "comparison", "prompt": PROMPT, "order": [1, 0], "choice": 1, "reason": "ok"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_project(tmp_path_factory.mktemp("data"))


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    page = Page(FeedbackLog(tmp_path), RankingQueue(["say one"], 1.0), ("sft", "ppo"), num_ranked=4, max_new_tokens=4)
    with server(data, "sft", "ppo", page=page) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        yield client, tmp_path


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def answer(client: httpx.Client, model: str = "sft", messages: Any = PROMPT, **settings: Any) -> dict[str, Any]:
    """An answer of a model, as the page sends it with a vote."""
    body = {"model": model, "messages": messages, "max_tokens": 3, **settings}
    reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return {
        "text": reply["choices"][0]["message"]["content"], "model": reply["model"],
        "version": reply["system_fingerprint"].removeprefix("fp_"),
        **{name: reply["choices"][0].get(name, "") for name in ("finish_reason", "signature")},
    }  # fmt: skip


@pytest.fixture
def comparison(site: tuple[httpx.Client, Path]) -> dict[str, Any]:
    """A vote about answers of two models."""
    answers = [{**answer(site[0]), "log_probs": [-0.5]}, answer(site[0], "ppo")]
    return {**VOTE, "id": "vote-0001", "answers": answers}


def test_settings_and_the_cookie(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    response = client.get("/page/settings")
    assert [model["name"] for model in response.json()["models"]] == ["sft", "ppo"]
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert (
        client.get("/page/settings").headers["set-cookie"].split(";")[0] == response.headers["set-cookie"].split(";")[0]
    )


def test_the_page_allows_no_foreign_code(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    for path in ("/", "/compare", "/rank"):
        response = client.get(path)
        assert response.status_code == 200
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert "<script>" not in response.text
        assert "http" not in response.text.replace("http-equiv", "")
    for name in ("page.js", "page.css"):
        assert client.get(f"/static/{name}").status_code == 200
    for name in ("page_api.py", "..%2fapp.py", "page.html"):
        assert client.get(f"/static/{name}").status_code == 404


def test_a_vote_is_one_line(site: tuple[httpx.Client, Path], comparison: dict[str, Any]) -> None:
    client, folder = site
    for is_new in (True, False):
        response = client.post("/page/feedback", json=comparison)
        assert response.json() == {"id": "vote-0001", "is_new": is_new}
    (record,) = records(folder)
    assert record | comparison == record
    assert record["annotator"] == client.cookies["annotator"]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "short"}, {"id": "../../../etc/passwd"}, {"action": "buy"}, {"order": [0, 0]}, {"choice": 2},
        {"choice": "good"}, {"answers": []}, {"prompt": []}, {"annotator": "me"}, {"reason": "x" * 5000},
        {"action": "ranking"}, {"action": "thumb", "choice": "good"}, {"action": "undo"}, {"prompt": [{"role": "x"}]},
    ],
)  # fmt: skip
def test_a_vote_that_the_page_never_sends_is_refused(
    site: tuple[httpx.Client, Path], comparison: dict[str, Any], changes: dict[str, Any]
) -> None:
    client, folder = site
    for body in (comparison | changes, {**comparison, "answers": comparison["answers"] * 2}):
        response = client.post("/page/feedback", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] != page_api.UNKNOWN_ANSWER
    assert records(folder) == []


@pytest.mark.parametrize("action", ["comparison", "thumb", "ranking", "skip", "undo"])
@pytest.mark.parametrize(
    "changes",
    [
        {"text": "an own text"}, {"model": "ppo"}, {"version": "1"}, {"finish_reason": None}, {"signature": ""},
        {"signature": "0" * 64},
    ],
)  # fmt: skip
def test_an_answer_that_no_model_gave_is_refused(
    site: tuple[httpx.Client, Path], comparison: dict[str, Any], action: str, changes: dict[str, Any]
) -> None:
    """Also one of a skipped item, which would be shown to others, and one of another model or to another prompt."""
    client, folder = site
    first = comparison["answers"][0]
    of_action: dict[str, Any] = {
        "comparison": {}, "thumb": {"answers": [first], "order": [], "choice": "good"}, "skip": {"choice": None},
        "ranking": {"choice": None, "ranks": [0, 1]}, "undo": {"choice": None, "target": "vote-0000"},
    }  # fmt: skip
    honest = {**comparison, "action": action, **of_action[action]}
    forged = {**honest, "answers": [first | changes, *honest["answers"][1:]]}
    other_prompt = {**honest, "prompt": [{"role": "user", "content": "say two"}]}
    other_role = {**honest, "prompt": [{"role": "system", "content": PROMPT[0]["content"]}]}
    for body in (forged, other_prompt, other_role):
        response = client.post("/page/feedback", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == page_api.UNKNOWN_ANSWER
    assert records(folder) == []
    assert client.post("/page/feedback", json=honest).json()["is_new"]


def test_all_choices_of_a_stream_have_the_signatures_of_the_whole_answers(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    body = {"model": "sft", "messages": PROMPT, "max_tokens": 5, "n": 3, "seed": 7}
    whole = client.post("/v1/chat/completions", json=body).json()["choices"]
    lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    signatures = {choice["index"]: choice["signature"] for chunk in chunks for choice in chunk["choices"]
                  if "signature" in choice}  # fmt: skip
    assert signatures == {choice["index"]: choice["signature"] for choice in whole}
    assert len(set(signatures.values())) == len({choice["message"]["content"] for choice in whole})


@pytest.mark.parametrize(
    "settings",
    [{"logit_bias": {"5": 100}}, {"frequency_penalty": 2.0}, {"stop": ["a"]}, {"top_k": 1}, {"min_tokens": 2}],
)
def test_an_answer_that_a_client_steers_has_no_signature(
    site: tuple[httpx.Client, Path], settings: dict[str, Any]
) -> None:
    """With `logit_bias`, a client can make a model write any text."""
    assert answer(site[0], **settings)["signature"] == ""
    assert answer(site[0], temperature=0.5, top_p=0.9, seed=1, user="me")["signature"]


def test_votes_hold_after_a_restart(data: Path, tmp_path: Path) -> None:
    """With the same key: about an answer of the former process, and about a record without signatures of the log."""
    old = {"id": "older-vote", "action": "ranking", "annotator": "b" * 32, "item": "i", "prompt": PROMPT,
           "answers": [{"text": text, "model": "sft", "version": "1"} for text in "xy"], "order": [0, 1],
           "ranks": [0, 1]}  # fmt: skip
    log = FeedbackLog(tmp_path)
    log.append(old)
    given: list[dict[str, Any]] = []
    for is_restarted in (False, True):
        page = Page(FeedbackLog(tmp_path), RankingQueue([]))
        signer = Signer("k" * 32)
        with server(data, page=page, signer=signer) as (address, _), httpx.Client(base_url=address) as client:
            client.get("/page/settings")
            given = given or [answer(client), answer(client)]
            if is_restarted:
                body = {**VOTE, "id": "vote-0001", "answers": given}
                assert client.post("/page/feedback", json=body).json()["is_new"]
                item = client.get("/page/rank/next").json()
                ranking = {**item, "id": "vote-0002", "action": "ranking", "ranks": [1, 0]}
                assert client.post("/page/feedback", json=ranking).json()["is_new"]
                again = {key: value for key, value in old.items() if key != "annotator"}
                assert client.post("/page/feedback", json=again).json() == {"id": "older-vote", "is_new": False}


def test_the_key_is_stored_once_and_only_this_user_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = environment.answers_key()
    assert environment.answers_key() == key
    path = tmp_path / environment.ANSWERS_KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")
    with pytest.raises(BadParams, match=r"Delete its file, \.run/answers\.key"):
        Signer(environment.answers_key())


def test_a_vote_without_a_cookie_is_refused(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    address = str(client.base_url)
    body = {**VOTE, "id": "vote-0001", "answers": [answer(client), answer(client)]}
    assert httpx.post(f"{address}/page/feedback", json=body).json()["error"]["code"] == "no_annotator"
    assert httpx.get(f"{address}/page/rank/next", cookies={"annotator": "a b;c"}).status_code == 400


def test_two_annotators_rank_the_same_answers(site: tuple[httpx.Client, Path]) -> None:
    client, folder = site
    item = client.get("/page/rank/next").json()
    assert item == client.get("/page/rank/next").json(), "the same after a reload"
    assert len(item["answers"]) >= 2
    assert {answer["model"] for answer in item["answers"]} <= {"sft", "ppo"}
    assert all(answer["log_probs"] for answer in item["answers"])
    ranks = list(range(len(item["answers"])))
    body = {key: item[key] for key in ("item", "prompt", "answers", "order")}
    ranking = {**body, "id": "ranking-1", "action": "ranking", "ranks": ranks}
    assert client.post("/page/feedback", json=ranking).status_code == 200
    assert client.get("/page/rank/next").json() == {"item": None}
    with httpx.Client(base_url=client.base_url, timeout=30) as other:
        other.get("/page/settings")
        same = other.get("/page/rank/next").json()
        assert (same["item"], same["answers"]) == (item["item"], item["answers"])
        other.post("/page/feedback", json={**ranking, "id": "ranking-2", "order": same["order"]})
        progress = other.get("/page/rank/progress").json()
        assert progress == {"ranked": 2, "mine": 1, "prompts": 1, "alpha": 1.0}
    assert len(records(folder)) == 2


class _Blocks:
    """Blocks texts in turn by a pattern: True stands for a blocked one."""

    def __init__(self, *pattern: bool) -> None:
        self.pattern, self.texts = list(pattern), list[str]()

    def label(self, text: str) -> str | None:
        self.texts.append(text)
        return "rude" if self.pattern[(len(self.texts) - 1) % len(self.pattern)] else None


@pytest.mark.parametrize(("pattern", "has_item"), [((True, False), True), ((True, True), False)])
def test_answers_that_the_filter_blocks_are_not_ranked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: tuple[bool, ...], has_item: bool
) -> None:
    """The filter blocks every second answer, or all of them."""
    page = Page(FeedbackLog(tmp_path), RankingQueue(["say one"]), num_ranked=4, max_new_tokens=8)
    blocks = _Blocks(*pattern)
    with server(data, page=page, filter=blocks) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        item = client.get("/page/rank/next").json()
    assert len(blocks.texts) == 4
    if has_item:
        assert {answer["text"] for answer in item["answers"]} == {blocks.texts[1], blocks.texts[3]}
    else:
        assert item == {"item": None}
        assert "'say one' is not ranked: the filter blocks all but 0 of 4 answers" in capsys.readouterr().err


def test_a_prompt_that_is_too_long_does_not_stop_the_ranking(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(FeedbackLog(tmp_path), RankingQueue(["x" * 300, "say one"]), num_ranked=2, max_new_tokens=4)
    with server(data, page=page) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        assert client.get("/page/rank/next").json()["prompt"] == PROMPT
    assert "is not ranked: it has 30" in capsys.readouterr().err


@pytest.mark.parametrize("num_equal", [2, page_api.MAX_EQUAL])
def test_prompts_with_equal_answers_are_passed_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_equal: int
) -> None:
    """At most MAX_EQUAL of them: a model that always gives one answer is not asked for ever."""

    async def answers(_: Any, __: Any, prompt: str) -> list[dict[str, Any]]:
        texts = ("x", "x") if prompt.startswith("equal") else ("x", "y")
        return [{"text": text, "model": "sft", "version": "1"} for text in texts]

    monkeypatch.setattr(page_api, "_answers", answers)
    prompts = [*(f"equal {number}" for number in range(num_equal + 1)), "different"]
    page = Page(FeedbackLog(tmp_path), RankingQueue(prompts))
    with server(data, page=page) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        prompt = client.get("/page/rank/next").json()["prompt"][0]["content"]
    assert prompt == ("different" if num_equal < page_api.MAX_EQUAL else f"equal {num_equal}")


def test_a_damaged_cookie_is_replaced(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    response = httpx.get(f"{client.base_url}/page/settings", headers={"cookie": "annotator=a.b"})
    assert len(response.cookies["annotator"]) == 32
