"""Errors as the protocol of OpenAI states them: a status, and a JSON object that clients turn into exceptions."""

from typing import Any

from pydantic import ValidationError

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An error for the client. `param`: the field that is wrong; `code`: a word that programs can compare."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of this error."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def from_validation(error: ValidationError) -> ApiError:
    """The first problem of a request that does not fit its model."""
    first = error.errors(include_url=False, include_context=False)[0]
    # The name of a member of a union is not part of the path that a client wrote.
    path = [
        str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith(("list[", "function-")))
    ]
    path = [part for part in path if part not in ("str", "int", "float", "TextPart")]
    param = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}. Remove it; this server would not use it."
        return ApiError(400, message, param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    text = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"Invalid value for '{param}': {text}.", param=param, code="invalid_value")


def too_many(seconds: int = 1) -> ApiError:
    """The queue is full."""
    return ApiError(
        429, "Too many requests are waiting. Try again later.", kind="rate_limit_error", code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )  # fmt: skip


def too_long(context: int, num_prompt: int, num_answer: int) -> ApiError:
    """A prompt with its answer does not fit into the context."""
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. However, you requested {num_prompt + num_answer} "
        f"tokens ({num_prompt} in the prompt, {num_answer} in the answer). Shorten the prompt or the answer.",
        param="messages",
        code="context_length_exceeded",
    )
