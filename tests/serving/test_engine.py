"""The engine on tiny models: whatever is batched, shared or removed, the answers are those of `generate`."""

import threading
import time
from typing import Any

import pytest
import torch

from tasks.causal import methods
from tasks.causal.methods import Methods
from tasks.serving import Engine, EngineParams, Event, Full, Request, Sampling
from tasks.serving import engine as engines
from tasks.serving import forward as forwards
from tasks.serving.text import AnswerText
from tests.causal.test_families import family
from tests.training.models import small_model

END = frozenset({5})
RANDOM = torch.Generator().manual_seed(1)
PROMPTS = [torch.randint(6, 90, (length,), generator=RANDOM).tolist() for length in (3, 40, 11, 25, 9, 64, 2, 17)]


class Collector:
    """Requests with everything that was reported about them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events: dict[int, list[Event]] = {}
        self._changed = threading.Condition()

    def request(self, ids: list[int], max_tokens: int = 12, **settings: Any) -> Request:
        settings = {"sampling": Sampling(temperature=0), "end_ids": END, **settings}
        text = settings.pop("text", None) or AnswerText(lambda ids: "".join(chr(32 + token % 90) for token in ids))
        return Request(ids=ids, max_tokens=max_tokens, on_event=self._add, text=text, **settings)

    def _add(self, request: Request, event: Event) -> None:
        with self._changed:
            self.events.setdefault(id(request), []).append(event)
            self._changed.notify_all()

    def of(self, request: Request) -> list[Event]:
        return self.events.get(id(request), [])

    def wait(self, *requests: Request, seconds: float = 30) -> None:
        def is_complete() -> bool:
            return all(self.of(one) and self.of(one)[-1].finish_reason for one in requests)

        with self._changed:
            assert self._changed.wait_for(is_complete, seconds)

    def wait_for_tokens(self, request: Request, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(request.answer) >= count, 30)

    def answers(self, *requests: Request) -> list[list[int]]:
        self.engine.submit(*requests)
        self.wait(*requests)
        return [request.answer for request in requests]


def generated(model: Any, ids: list[int], count: int = 12) -> list[int]:
    with torch.no_grad():
        output = model.generate(
            torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=5, pad_token_id=0,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )  # fmt: skip
    return [int(token) for token in output[0, len(ids) :]]


@pytest.fixture
def collector() -> Any:
    engine = Engine(small_model(), EngineParams(prompt_tokens_per_round=32))
    yield Collector(engine)
    engine.close()


FAMILIES = ["llama", "qwen3", "mistral", "gemma-2", "gpt-2", "gpt-oss", "phi-1", "olmo-2", "cohere", "opt"]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_are_those_of_generate(name: str) -> None:
    """Grouped heads, windows, learned positions, biases and sinks; prompts are read in parts of 16 tokens."""
    model = family(name)
    assert forwards.problem(model, 96) is None
    prompts = [[token % 90 + 6 for token in ids][:20] for ids in PROMPTS]
    engine = Engine(model, EngineParams(prompt_tokens_per_round=16, max_batch=4))
    collector = Collector(engine)
    try:
        answers = collector.answers(*(collector.request(ids) for ids in prompts))
    finally:
        engine.close()
    assert answers == [generated(model, ids) for ids in prompts]


def test_numbers_that_differ_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if they are not numbers: the logits of one forward pass are NaN."""
    for wrong, text in ((1.0, "differ by "), (float("nan"), "differ by nan nats")):
        monkeypatch.setattr(forwards, "_cached_logits", lambda *_, wrong=wrong: [torch.eye(3, 96) * 9 * wrong] * 4)
        assert text in str(forwards.problem(family("llama"), 96))


def test_a_model_whose_state_is_not_in_rows_answers_one_after_another() -> None:
    model = family("mamba")
    problem = forwards.problem(model, 96)
    assert problem is not None
    assert ": " in problem, "the type and the text of the error"
    methods.choose(model, Methods(generation="model"))
    engine = Engine(model, EngineParams())
    collector = Collector(engine)
    requests = [collector.request(ids[:9], num_top=1, num_prompt_top=1) for ids in PROMPTS[:3]]
    try:
        answers = collector.answers(*requests)
    finally:
        engine.close()
    assert answers == [generated(model, ids[:9]) for ids in PROMPTS[:3]]
    prompt = collector.of(requests[0])[0].prompt
    assert prompt is not None
    assert [one.token for one in prompt] == PROMPTS[0][:9]


def test_shared_beginnings_are_not_computed_again(collector: Collector) -> None:
    """A conversation that goes on, choices for one prompt, and a prompt that was answered before."""
    first, *others = PROMPTS[5], PROMPTS[5][:30] + PROMPTS[3]
    (answer,) = collector.answers(collector.request(first))
    follow_up = [*first, *answer, *PROMPTS[4]]
    requests = [collector.request(ids) for ids in (follow_up, follow_up, others[0], first)]
    expected = [generated(collector.engine.model, list(request.ids)) for request in requests]
    assert collector.answers(*requests) == expected
    shared = [request.num_shared for request in requests]
    assert shared[0] == len(first) + len(answer) - 1, "the last token of an answer has no keys yet"
    assert shared[1] == len(follow_up) - 1
    assert shared[2] == 30
    assert shared[3] == len(first) - 1


def test_answers_do_not_depend_on_the_batch(collector: Collector) -> None:
    """Each request has its own random numbers."""
    settings = Sampling(temperature=1.0, top_p=0.9, top_k=20, min_p=0.01)

    def sampled(seed: int) -> Request:
        return collector.request(PROMPTS[3], 20, sampling=settings, seed=seed)

    alone = [collector.answers(sampled(seed))[0] for seed in range(3)]
    together = collector.answers(*(sampled(seed) for seed in range(3)), *(collector.request(ids) for ids in PROMPTS))
    assert together[:3] == alone
    assert len({tuple(answer) for answer in alone}) == 3


def test_log_probabilities_of_the_prompt_and_of_the_answer(collector: Collector) -> None:
    request = collector.request(PROMPTS[1], 4, num_top=3, num_prompt_top=2)
    collector.answers(request)
    ids = torch.tensor([[*PROMPTS[1], *request.answer]])
    with torch.no_grad():
        log_p = collector.engine.model(ids).logits[0].log_softmax(-1)
    events = collector.of(request)
    prompt = events[0].prompt
    assert prompt is not None
    assert prompt[0].log_prob != prompt[0].log_prob, "nothing stands before the first token"
    expected = log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
    actual = [one.log_prob for one in prompt[1:]] + [one.log_prob for event in events for one in event.tokens]
    torch.testing.assert_close(torch.tensor(actual), expected, atol=1e-5, rtol=0)
    assert [token for token, _ in prompt[1].top] == log_p[0].topk(2).indices.tolist()
    first = events[0].tokens[0]
    assert first.top[0][0] == first.token
    assert first.top[0][1] == pytest.approx(first.log_prob)
    assert len(first.top) == 3


def test_a_request_for_no_tokens_only_reads(collector: Collector) -> None:
    request = collector.request(PROMPTS[2], 0, num_prompt_top=0)
    assert collector.answers(request) == [[]]
    assert collector.of(request)[-1].finish_reason == "length"
    assert len(collector.of(request)[0].prompt or ()) == len(PROMPTS[2])


def test_a_canceled_request_leaves_at_once(collector: Collector) -> None:
    """Also one that waits. The others go on, and the freed row is used again."""
    long = collector.request(PROMPTS[0], 250, end_ids=frozenset())
    other = collector.request(PROMPTS[1], 60, end_ids=frozenset())
    collector.engine.submit(long, other)
    collector.wait_for_tokens(long, 3)
    long.cancel()
    collector.wait(long, other)
    assert len(long.answer) < 250
    assert collector.of(long)[-1].finish_reason == "canceled"
    assert other.answer == [int(t) for t in _free(collector.engine.model, PROMPTS[1], 60)]
    assert collector.engine.num_running == 0


def _free(model: Any, ids: list[int], count: int) -> list[int]:
    with torch.no_grad():
        output = model.generate(
            torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )  # fmt: skip
    return [int(token) for token in output[0, len(ids) :]]


def test_a_request_ends_at_its_deadline(collector: Collector) -> None:
    request = collector.request(PROMPTS[0], 250, end_ids=frozenset(), deadline=time.monotonic() + 0.05)
    collector.answers(request)
    assert collector.of(request)[-1].finish_reason == "timeout"


def test_a_full_queue_refuses(collector: Collector) -> None:
    engine = Engine(small_model(), EngineParams(max_batch=1, max_queue=2))
    try:
        running = collector.request(PROMPTS[0], 200, end_ids=frozenset())
        waiting = [collector.request(PROMPTS[2], 1) for _ in range(2)]
        engine.submit(running)
        collector.wait_for_tokens(running, 1)
        engine.submit(*waiting)
        with pytest.raises(Full):
            engine.submit(collector.request(PROMPTS[2], 1))
        collector.wait(running, *waiting)
    finally:
        engine.close()
    assert engine.counts["rejected"] == 1


def test_requests_wait_until_their_keys_fit() -> None:
    """Room for 120 tokens: two rows of 50 at a time, and never three."""
    engine = Engine(small_model(), EngineParams(max_cache_tokens=120, share_prefixes=False))
    collector = Collector(engine)
    requests = [collector.request(ids[:10], 40, end_ids=frozenset()) for ids in PROMPTS if len(ids) > 9]
    try:
        assert collector.answers(*requests) == [_free(engine.model, list(one.ids), 40) for one in requests]
        assert engine._forward.key_values.rows <= 2
    finally:
        engine.close()


def test_a_failure_ends_the_requests_of_its_round_only(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    bad = collector.request(PROMPTS[0])
    with monkeypatch.context() as patch:
        patch.setattr(collector.engine._forward, "states", fail)
        collector.answers(bad)
    assert collector.of(bad)[-1].finish_reason == "error"
    assert "out of memory" in capsys.readouterr().err
    assert collector.answers(collector.request(PROMPTS[1])) == [generated(collector.engine.model, PROMPTS[1])]


def test_penalties_and_bias(collector: Collector) -> None:
    """A bias of 100 forces a token; a large frequency penalty forbids to repeat one; no end before `min_tokens`."""
    forced = collector.request(PROMPTS[0], 4, sampling=Sampling(temperature=0, logit_bias={42: 100.0}))
    varied = collector.request(
        PROMPTS[0], 12, end_ids=frozenset(),
        sampling=Sampling(temperature=0, logit_bias={42: 1.0, 43: 1.0}, frequency_penalty=100.0),
    )  # fmt: skip
    ending = collector.request(PROMPTS[0], 9, sampling=Sampling(temperature=0, logit_bias={5: 100.0}, min_tokens=3))
    collector.answers(forced, varied, ending)
    assert forced.answer == [42] * 4
    assert len(set(varied.answer)) == 12
    assert len(ending.answer) == 4
    assert ending.answer[-1] == 5


def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "IDLE_SECONDS", 0.05)
    engine = Engine(small_model(), EngineParams())
    collector = Collector(engine)
    try:
        for ids in PROMPTS[:2]:
            assert collector.answers(collector.request(ids)) == [generated(engine.model, ids)]
            until = time.monotonic() + 10
            while engine._forward.key_values.layers[0].keys is not None:
                assert time.monotonic() < until
                time.sleep(0.01)
    finally:
        engine.close()
