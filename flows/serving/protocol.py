"""The requests of the OpenAI protocol that this server answers; a field that it would ignore is an error."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_STOPS, MAX_TOP = 16, 20
UNSUPPORTED = "is not supported by this server"
# Fields that leave an answer to the model. By others, such as `logit_bias`, a client can make it write any text.
UNBIASED = {
    "model", "messages", "n", "temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "logprobs",
    "top_logprobs", "stream", "stream_options", "user", "metadata",
}  # fmt: skip


class StreamOptions(BaseModel):
    """What a stream contains besides text."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against the analysis of traffic; never added


class SharedFields(BaseModel):
    """The fields of chats and of completions."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 64)
    max_tokens: int | None = None
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # What clients state about themselves; it changes no answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > MAX_STOPS or not all(stops):
            raise ValueError(f"expected at most {MAX_STOPS} texts, none of them empty")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _check_bias(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for token, value in (bias or {}).items():
            if not (token.isascii() and token.isdigit()) or not -100 <= value <= 100:
                raise ValueError("expected token ids as keys and numbers from -100 to 100 as values")
        return bias

    @model_validator(mode="after")
    def _check_stream(self) -> "SharedFields":
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` is only allowed when `stream` is true")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """Whether the last chunk of a stream states the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat. The role developer is the newer name of system."""

    model_config = ConfigDict(strict=True, extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    tool_calls: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())


class ResponseFormat(BaseModel):
    """Only plain text."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]


class ChatRequest(SharedFields):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _check_top(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` is only allowed when `logprobs` is true")
        return self

    @property
    def num_top(self) -> int | None:
        """The number of most probable tokens at each place; None without log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def is_unbiased(self) -> bool:
        """Whether the answer is that of the model alone, so that people may vote about it."""
        return self.model_fields_set <= UNBIASED

    @property
    def max_new_tokens(self) -> int | None:
        """The limit of the answer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(SharedFields):
    """POST /v1/completions. `prompt`: a text, several texts, token ids, or several lists of token ids."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    best_of: int | None = None
    suffix: None = None

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        if prompt == [] or (isinstance(prompt, list) and any(part == [] for part in prompt)):
            raise ValueError("a prompt is empty")
        return prompt

    @model_validator(mode="after")
    def _check_best_of(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError(f"`best_of` other than `n` {UNSUPPORTED}")
        if not self.echo and self.max_tokens == 0:
            raise ValueError("`max_tokens` 0 is only allowed when `echo` is true")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[int(index) for index in self.prompt]]
        return list(self.prompt)  # type: ignore[arg-type]  # a list of texts or of lists
