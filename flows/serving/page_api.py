"""What the page asks its server: settings, prompts to rank, and votes, which are on disk before they are answered."""

import asyncio
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import FileResponse, JSONResponse, Response

from flows.serving.api_errors import ApiError
from flows.serving.completions import read_body
from flows.serving.delivery import Answers
from flows.serving.protocol import ChatRequest
from flows.serving.registry import Registry
from flows.serving.signatures import Signer
from flows.serving.state import State
from tasks.errors import BadInput
from tasks.feedback import FeedbackLog
from tasks.serving import RankingQueue

COOKIE, COOKIE_SECONDS = "annotator", 400 * 86_400
FOLDER = Path(__file__).parent / "page"
FILES = {"page.js": "text/javascript", "page.css": "text/css"}
NO_CACHE = {"Cache-Control": "no-cache"}
MAX_TEXT, MAX_ANSWERS = 200_000, 16
UNKNOWN_ANSWER = "unknown_answer"  # the page discards a vote that is refused for this reason
MAX_EQUAL = 8  # prompts with equal answers that are passed over in search of one with different answers
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class NotRankable(Exception):
    """A prompt does not get two answers that can be shown."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class PageMessage(_Part):
    """A message of the prompt."""

    role: Literal["system", "user", "assistant"]
    content: Text


class PageAnswer(_Part):
    """An answer, its model, and the signature of the server. log_probs: that of each token at temperature 1."""

    text: Text
    model: str = Field(max_length=200)
    version: str = Field(max_length=64)
    log_probs: list[float] = Field(default_factory=list, max_length=100_000)
    finish_reason: str | None = Field(None, max_length=32)
    temperature: float | None = None
    top_p: float | None = None
    signature: str = Field("", pattern=r"^[0-9a-f]*$", max_length=64)


class Feedback(_Part):
    """One action of an annotator. order: the answers as they were shown, by their indices; ranks: 0 is the best."""

    id: Id
    action: Literal["comparison", "thumb", "ranking", "skip", "undo", "deletion"]
    conversation: str = Field("", max_length=64)
    item: str = Field("", max_length=64)
    prompt: list[PageMessage] = Field(default_factory=list, max_length=1000)
    answers: list[PageAnswer] = Field(default_factory=list, max_length=MAX_ANSWERS)
    order: list[int] = Field(default_factory=list, max_length=MAX_ANSWERS)
    choice: int | Literal["tie", "both_bad", "good", "bad"] | None = None
    ranks: list[int] = Field(default_factory=list, max_length=MAX_ANSWERS)
    reason: str = Field("", max_length=2000)
    target: str = Field("", max_length=64)

    @model_validator(mode="after")
    def _check(self) -> "Feedback":
        count = len(self.answers)
        if self.action in ("comparison", "ranking", "skip") and sorted(self.order) != list(range(count)):
            raise ValueError("`order` must contain the index of every answer once")
        if self.action == "comparison" and (count != 2 or self.choice not in (0, 1, "tie", "both_bad")):
            raise ValueError("a comparison needs two answers and the choice 0, 1, tie or both_bad")
        if self.action == "thumb" and (count != 1 or self.choice not in ("good", "bad")):
            raise ValueError("a thumb needs one answer and the choice good or bad")
        if self.action == "ranking" and (
            len(self.ranks) != count or count < 2 or not all(0 <= r < count for r in self.ranks)
        ):
            raise ValueError("a ranking needs a rank for each of at least two answers")
        if self.action in ("comparison", "thumb", "ranking") and not self.prompt:
            raise ValueError("`prompt` is empty")
        if self.action == "undo" and not self.target:
            raise ValueError("`target` names the action to take back")
        return self


@dataclass
class Page:
    """The settings of the page. compare: the models of comparisons; share: of turns that become comparisons."""

    log: FeedbackLog
    queue: RankingQueue
    compare: tuple[str, ...] = ()
    share: float = 0.0
    consent: str = ""
    num_ranked: int = 4
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for record in self.log.records():
            self.queue.add(record)


def add_routes(app: FastAPI, page: Page) -> None:
    """Add the page and its endpoints to the application."""
    app.state.page = page
    for path in ("/", "/compare", "/rank"):
        app.add_api_route(path, show, methods=["GET"])
    app.add_api_route("/static/{name}", static, methods=["GET"])
    app.add_api_route("/page/settings", page_settings, methods=["GET"])
    app.add_api_route("/page/feedback", add_feedback, methods=["POST"])
    app.add_api_route("/page/rank/next", next_item, methods=["GET"])
    app.add_api_route("/page/rank/progress", progress, methods=["GET"])


async def show() -> Response:
    """The page."""
    return FileResponse(FOLDER / "page.html", media_type="text/html; charset=utf-8", headers=NO_CACHE)


async def static(name: str) -> Response:
    """Its script and its style."""
    if name not in FILES:
        raise ApiError(404, "Not Found.", code="unknown_url")
    return FileResponse(FOLDER / name, media_type=f"{FILES[name]}; charset=utf-8", headers=NO_CACHE)


async def page_settings(request: HttpRequest) -> Response:
    """What the page needs to know at its start; an annotator without a cookie gets one."""
    state: State = request.app.state.serving
    page: Page = request.app.state.page
    models = [{"name": served.name, "version": served.version} for served in state.registry.all()]
    body = {"models": models, "compare": list(page.compare), "compare_share": page.share, "consent": page.consent}
    response = JSONResponse(body)
    annotator = request.cookies.get(COOKIE, "")
    if not _is_annotator(annotator):
        annotator = uuid.uuid4().hex
    response.set_cookie(COOKIE, annotator, max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
    return response


async def add_feedback(request: HttpRequest) -> Response:
    """Write one action to disk."""
    state: State = request.app.state.serving
    page: Page = request.app.state.page
    body = await read_body(request, Feedback, state.max_body_bytes)
    if body.id in page.log:  # it may be of a time when answers had no signatures
        return JSONResponse({"id": body.id, "is_new": False})
    _check_answers(state.signer, body)
    record = {**body.model_dump(exclude_defaults=True), "annotator": _annotator(request)}
    is_new = await asyncio.to_thread(page.log.append, record)
    if is_new:
        page.queue.add(record)
    return JSONResponse({"id": body.id, "is_new": is_new})


async def next_item(request: HttpRequest) -> Response:
    """The next prompt with its answers, in the order in which this annotator sees them."""
    state: State = request.app.state.serving
    page: Page = request.app.state.page
    annotator = _annotator(request)
    num_equal = 0
    while isinstance(item := page.queue.next(annotator), str):
        try:
            answers = await _answers(state, page, item)
        except NotRankable as error:
            print(f"the prompt {item[:60]!r} is not ranked: {error}", file=sys.stderr, flush=True)
            continue  # it stays begun, so that nobody gets it again
        except BaseException:
            page.queue.give_back(item)
            raise
        if len({answer["text"] for answer in answers}) == 1 and num_equal < MAX_EQUAL:
            num_equal += 1
            continue  # its rank would say nothing; it stays begun, too
        item = page.queue.show(annotator, item, answers)
        break
    return JSONResponse(_signed(state.signer, item) if item else {"item": None})


async def progress(request: HttpRequest) -> Response:
    """How far the ranking has come."""
    page: Page = request.app.state.page
    return JSONResponse(page.queue.progress(_annotator(request)))


def _check_answers(signer: Signer, body: Feedback) -> None:
    """Raise ApiError for an answer that no model of this server gave to the prompt."""
    prompt = [{"role": message.role, "content": message.content} for message in body.prompt]
    for number, one in enumerate(body.answers):
        if not signer.is_own(one.signature, prompt, one.model, one.version, one.text, one.finish_reason):
            message = (
                f"Answer {number + 1} has no valid signature: it is no answer of this server to this prompt. If the "
                "page is older than the server, load it again, and vote about new answers."
            )
            raise ApiError(400, message, param=f"answers.{number}.signature", code=UNKNOWN_ANSWER)


def _signed(signer: Signer, item: Mapping[str, Any]) -> dict[str, Any]:
    """An item to rank with the signatures of its answers, which are of this server or were in its log."""
    prompt = item["prompt"]
    answers = [
        {**one, "signature": signer.sign(prompt, one["model"], one["version"], one["text"], one.get("finish_reason"))}
        for one in item["answers"]
    ]
    return {**item, "answers": answers}


def _annotator(request: HttpRequest) -> str:
    annotator = request.cookies.get(COOKIE, "")
    if not _is_annotator(annotator):
        raise ApiError(400, "The cookie of the page is missing: load /page/settings first.", code="no_annotator")
    return annotator


def _is_annotator(cookie: str) -> bool:
    return 8 <= len(cookie) <= 64 and cookie.isascii() and cookie.isalnum()


async def _answers(state: State, page: Page, prompt: str) -> list[dict[str, Any]]:
    """Different answers to a prompt, by the models of comparisons in turn. Raises NotRankable."""
    registry: Registry = state.registry
    names = page.compare or (registry.names[0],)
    messages = [{"role": "user", "content": prompt}]
    per_model = [page.num_ranked // len(names) + (i < page.num_ranked % len(names)) for i in range(len(names))]
    parts = await asyncio.gather(
        *(_of_model(state, page, name, messages, count) for name, count in zip(names, per_model, strict=True) if count)
    )
    answers = [answer for part in parts for answer in part if await state.blocked(answer["text"]) is None]
    if len(answers) < 2:
        raise NotRankable(f"the filter blocks all but {len(answers)} of {page.num_ranked} answers.")
    distinct = {answer["text"]: answer for answer in answers}
    return list(distinct.values()) if len(distinct) > 1 else answers[:2]


async def _of_model(state: State, page: Page, name: str, messages: Any, count: int) -> list[dict[str, Any]]:
    served = state.registry.named(name)
    body = ChatRequest.model_validate({"model": name, "messages": messages, "n": count, "temperature": 1.0})
    answers = Answers(served, state.delivery)
    if not served.can_chat:
        raise NotRankable(f"{name} has no chat template.")
    try:
        ids = await asyncio.to_thread(served.encode_chat, messages)
    except BadInput as error:
        raise NotRankable(f"{error}.") from None
    room = min(page.max_new_tokens, served.context - len(ids))
    if room < 1:
        raise NotRankable(f"it has {len(ids)} tokens, and the context of {name} is {served.context}.")
    answers.add(ids, body, state.limits, is_chat=True, max_new_tokens=room, num_top=0)
    texts, log_probs = [""] * count, [list[float]() for _ in range(count)]
    async with answers:
        async for batch in answers.batches():
            for index, event in batch:
                texts[index] += event.text
                log_probs[index] += [token.log_prob for token in event.tokens]
    about = {"model": served.name, "version": served.version, "temperature": 1.0, "top_p": 1.0}
    return [{"text": text, "log_probs": values, **about} for text, values in zip(texts, log_probs, strict=True)]
