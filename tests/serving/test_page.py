"""The page in headless Chromium: chat, stop, compare, rank, reload, dark, 390 pixels wide, with an empty console."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults_in_server import PROMPT, two_answers
from flows.serving.page_api import Page
from flows.serving.state import State
from tasks.feedback import FeedbackLog
from tasks.serving import RankingQueue
from tests.browser import CHROMIUM, Browser, browser
from tests.evaluation import small
from tests.serving.running import server, wait_until_idle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]
ANSWERS = "document.querySelectorAll('.assistant').length"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, State, Path]]:
    folder = tmp_path_factory.mktemp("site")
    data = small.write_project(folder / "data")
    log = FeedbackLog(folder / "feedback")
    page = Page(log, RankingQueue(["say one", "say two", "say three"]), ("sft", "ppo"), consent="Votes are kept.")
    page.num_ranked, page.max_new_tokens = 3, 6
    with server(data, "sft", "ppo", page=page) as (address, state):
        yield address, state, folder / "feedback"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(autouse=True)
def _empty_console(tab: Browser) -> Iterator[None]:
    tab.errors.clear()
    yield
    tab.run("1")
    assert tab.errors == []


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def start(tab: Browser, address: str, path: str = "/", max_tokens: int = 20) -> None:
    tab.open(address + path)
    tab.run(f"store('set_max_tokens', {max_tokens}); $('max_tokens').value = {max_tokens}")
    tab.run("document.getElementById('new').click()")


def send(tab: Browser, text: str) -> None:
    tab.run("document.getElementById('input').focus()")
    tab.type(text)
    tab.key("Enter", "\r")


def test_chat_reload_and_again(tab: Browser, site: tuple[str, State, Path]) -> None:
    start(tab, site[0])
    send(tab, "say one")
    tab.wait(f"{ANSWERS} === 1 && !document.getElementById('send').hidden")
    assert "sft · " in tab.run("document.querySelector('.assistant .about').textContent")
    assert tab.run("document.getElementById('consent').textContent") == "Votes are kept."
    tab.open(site[0] + "/")
    tab.wait(f"{ANSWERS} === 1")
    assert "say one" in tab.run("document.querySelector('.user').textContent")
    tab.run("[...document.querySelectorAll('.assistant button')].find((one) => one.textContent === 'Again').click()")
    tab.wait(f"{ANSWERS} === 1 && !document.getElementById('send').hidden")
    tab.run("document.querySelector('.user button').click()")
    assert tab.run("document.getElementById('input').value") == "say one"
    assert tab.run(ANSWERS) == 0


def test_stop(tab: Browser, site: tuple[str, State, Path]) -> None:
    start(tab, site[0], max_tokens=100)
    tab.run("document.getElementById('temperature').value = 2")
    send(tab, "say two")
    tab.wait("!document.getElementById('stop').hidden")
    tab.click("#stop")
    tab.wait(f"{ANSWERS} === 1 && !document.getElementById('send').hidden")
    wait_until_idle(site[1])


def test_there_is_no_vote_about_a_stopped_answer(tab: Browser, site: tuple[str, State, Path]) -> None:
    """It has no signature and no thumbs. A choice between two continues the conversation, and is no vote."""
    before = len(records(site[2]))
    for path in ("/", "/compare"):
        start(tab, site[0], path)
        tab.run("answer = async (_, model) => ({ text: 'cut', model, version: '1', finish_reason: 'stopped' })")
        send(tab, "say two")
        if path == "/compare":
            tab.wait("document.getElementById('choose-left')")
            tab.click("#choose-left")
            assert tab.run("$('notice').textContent").startswith("An answer was stopped")
        tab.wait(f"{ANSWERS} === 1 && !document.getElementById('send').hidden")
        assert tab.run("document.querySelector('.assistant').textContent").endswith("stoppedCopyAgain"), "no thumb"
        assert tab.run("stored('outbox', [])") == []
    assert len(records(site[2])) == before


def test_a_thumb_is_one_record_however_often_it_is_sent(tab: Browser, site: tuple[str, State, Path]) -> None:
    start(tab, site[0])
    send(tab, "say one")
    tab.wait(f"{ANSWERS} === 1 && !document.getElementById('send').hidden")
    thumb = "[...document.querySelectorAll('.assistant button')].find((one) => one.textContent === 'Good')"
    before = len(records(site[2]))
    tab.run(f"for (let i = 0; i < 3; i++) {thumb}.click()")
    tab.wait("document.getElementById('notice').textContent === 'Saved.'")
    assert len(records(site[2])) == before + 1
    record = records(site[2])[-1]
    assert (record["action"], record["choice"]) == ("thumb", "good")
    assert record["prompt"] == [{"role": "user", "content": "say one"}]
    assert len(record["answers"][0]["log_probs"]) > 0
    assert len(record["annotator"]) == 32
    body = {key: value for key, value in record.items() if key not in ("time", "annotator", "schema_version")}
    tab.run(f"vote({json.dumps(body)})")
    assert len(records(site[2])) == before + 1, "the same id again"


def test_a_thumb_has_the_prompt_of_its_answer(tab: Browser, site: tuple[str, State, Path]) -> None:
    """The settings are changed between answer and vote."""
    start(tab, site[0])
    tab.run("$('system').value = 'be brief'")
    send(tab, "say one")
    tab.wait(f"{ANSWERS} === 1 && !document.getElementById('send').hidden")
    tab.run("$('system').value = ''")
    tab.run("[...document.querySelectorAll('.assistant button')].find((one) => one.textContent === 'Bad').click()")
    tab.wait("document.getElementById('notice').textContent === 'Saved.'")
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say one"}]
    assert records(site[2])[-1]["prompt"] == prompt


def test_comparison(tab: Browser, site: tuple[str, State, Path]) -> None:
    start(tab, site[0], "/compare")
    before = len(records(site[2]))
    send(tab, "say one")
    tab.wait("document.getElementById('choose-left')")
    tab.run("$('input').value = 'the next question'; $('form').requestSubmit()")
    assert tab.run("$('notice').textContent") == "Choose one of the two answers first."
    tab.run("document.getElementById('choose-left').click(); document.getElementById('choose-left')?.click()")
    tab.wait("JSON.parse(localStorage.getItem('outbox')).length === 0")
    (record,) = records(site[2])[before:]
    assert record["action"] == "comparison"
    assert [answer["model"] for answer in record["answers"]] == ["sft", "ppo"]
    assert record["choice"] == record["order"][0]


def test_a_comparison_is_decided_by_a_key_without_a_click(tab: Browser, site: tuple[str, State, Path]) -> None:
    """The focus leaves the empty field; after the choice, or in another conversation, the keys do nothing."""
    before = len(records(site[2]))
    for key in ("2", ""):
        start(tab, site[0], "/compare")
        send(tab, "say one")
        tab.wait("document.getElementById('choose-left')")
        if key:
            tab.key(key, key)
            tab.wait("JSON.parse(localStorage.getItem('outbox')).length === 0")
        else:
            tab.click("#new")
        tab.run("document.activeElement.blur()")
        tab.key("1", "1")
    (record,) = records(site[2])[before:]
    assert record["choice"] == record["order"][1]


def test_a_vote_waits_until_the_server_answers(tab: Browser, site: tuple[str, State, Path]) -> None:
    """The page is closed before the vote was sent: it is sent when the page is opened again, once."""
    start(tab, site[0])
    before = len(records(site[2]))
    vote = {"id": "a" * 32, "action": "thumb", "choice": "bad", "prompt": PROMPT,
            "answers": two_answers(site[0], "sft")[:1]}  # fmt: skip
    tab.run(f"localStorage.setItem('outbox', JSON.stringify([{json.dumps(vote)}]))")
    for _ in range(2):
        tab.open(site[0] + "/")
        tab.wait("JSON.parse(localStorage.getItem('outbox')).length === 0")
    assert len(records(site[2])) == before + 1


def test_a_vote_that_is_refused_does_not_hold_up_the_next_one(tab: Browser, site: tuple[str, State, Path]) -> None:
    start(tab, site[0])
    before = len(records(site[2]))
    refused: dict[str, Any] = {"id": "b" * 32, "action": "thumb", "choice": "good"}
    vote = {**refused, "id": "c" * 32, "prompt": PROMPT, "answers": two_answers(site[0], "sft")[:1]}
    forged = {**vote, "id": "d" * 32, "answers": [{**vote["answers"][0], "text": "an own text"}]}
    tab.run(f"localStorage.setItem('outbox', JSON.stringify({json.dumps([refused, forged, vote])}))")
    tab.run("flush()")
    assert [record["id"] for record in records(site[2])[before:]] == ["c" * 32]
    assert tab.run("JSON.parse(localStorage.getItem('outbox')).map((one) => one.id)") == ["b" * 32], (
        "it is kept; the one that no server will ever accept is not"
    )
    tab.run("localStorage.setItem('outbox', '[]')")
    assert all("400" in error for error in tab.errors)
    tab.errors.clear()  # Chromium writes every status 400 to the console


def test_ranking_by_keys_with_a_tie_and_undo(tab: Browser, site: tuple[str, State, Path]) -> None:
    before = len(records(site[2]))
    tab.open(site[0] + "/rank")
    tab.wait("document.querySelectorAll('.ranked').length > 1")
    count = int(tab.run("document.querySelectorAll('.ranked').length"))
    tab.key("2", "2")
    tab.key("ArrowUp")
    tab.key("t")
    tab.key("1", "1")
    tab.key("t")
    tab.key("Enter", "\r")
    tab.wait("JSON.parse(localStorage.getItem('outbox')).length === 0")
    (record,) = records(site[2])[before:]
    order = record["order"]
    assert record["ranks"][order[0]] == record["ranks"][order[1]] == 0, "tied at the top"
    assert sorted(record["ranks"])[-1] == (0 if count == 2 else count - 1)
    tab.wait("document.getElementById('progress')?.textContent.startsWith('1 ranked')")
    tab.wait("document.getElementById('undo')")
    tab.click("#undo")
    tab.wait("document.getElementById('progress')?.textContent.startsWith('0 ranked')")
    assert records(site[2])[-1]["action"] == "undo"
    tab.wait("document.getElementById('skip')")
    tab.click("#skip")
    tab.wait("JSON.parse(localStorage.getItem('outbox')).length === 0")
    assert records(site[2])[-1]["action"] == "skip"


def test_html_of_a_model_is_never_executed(tab: Browser, site: tuple[str, State, Path]) -> None:
    start(tab, site[0])
    text = "<img src=x onerror=alert(1)> **bold** [x](javascript:alert(1)) [y](https://example.org)\n"
    text += "```\n<b>code</b>\n```\n- one\n- two"
    html = tab.run(f"element('div', {{}}, markdown({json.dumps(text)})).innerHTML")
    assert "<img" not in html
    assert "<strong>bold</strong>" in html
    assert 'href="https://example.org"' in html
    assert 'href="javascript' not in html
    assert "<pre><code>&lt;b&gt;code&lt;/b&gt;</code></pre>" in html
    assert html.count("<li>") == 2


def test_dark_chinese_and_a_phone(tab: Browser, site: tuple[str, State, Path]) -> None:
    tab.size(390, 800)
    start(tab, site[0])
    assert tab.run("document.documentElement.scrollWidth") <= 390
    light = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.run("getComputedStyle(document.body).backgroundColor") != light
    tab.click("#language")
    assert tab.run("document.getElementById('send').textContent") == "发送"
    tab.open(site[0] + "/compare")
    assert tab.run("document.getElementById('send').textContent") == "发送"
    assert tab.run("document.documentElement.dataset.theme") == "dark"
    assert tab.run("document.documentElement.scrollWidth") <= 390
    tab.click("#language")
    tab.click("#theme")
    tab.size(1200, 800)
