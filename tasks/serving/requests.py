"""What a client asks the engine for, and what it receives: one request is one answer to one prompt."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tasks.serving.text import AnswerText

FinishReason = Literal["stop", "length", "canceled", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an answer are drawn; the defaults change nothing.

    Penalties as in the protocol of OpenAI, `repetition_penalty`, `top_k` (0: all) and `min_p` as in vLLM.
    logit_bias: token -> number that is added to its logit. min_tokens: no end token is drawn before it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def has_penalties(self) -> bool:
        """Whether logits depend on the tokens so far."""
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1)


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """A token, its log-probability at temperature 1, and the most probable tokens at its place with theirs."""

    token: int
    log_prob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """News about one request: new text and tokens, or its end.

    prompt: log-probabilities of the prompt, only in the first event and only if they were asked for; that of the first
    token is NaN, because nothing stands before it.
    """

    text: str = ""
    tokens: Sequence[TokenLogProb] = ()
    finish_reason: FinishReason | None = None
    prompt: Sequence[TokenLogProb] | None = None
    error: str = ""


@dataclass(eq=False, slots=True)
class Request:
    """One prompt and how to answer it.

    num_top: number of most probable tokens to report at each place; None: no log-probabilities are computed.
    on_event is called in the thread of the engine. `cancel` may be called in any thread. deadline: a time of
    `time.monotonic` at which the answer ends as it is.
    """

    ids: Sequence[int]
    max_tokens: int
    on_event: Callable[["Request", Event], None]
    text: AnswerText
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    seed: int | None = None
    num_top: int | None = None
    num_prompt_top: int | None = None
    deadline: float = math.inf
    answer: list[int] = field(default_factory=list)
    arrival: float = 0.0
    is_canceled: bool = False
    num_shared: int = 0  # tokens of the prompt whose keys and values were there already
    random_numbers: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random_numbers = random.Random(self.seed)

    def cancel(self) -> None:
        """End the answer at the next token."""
        self.is_canceled = True
