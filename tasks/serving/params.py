"""The settings of the engine."""

from pydantic import BaseModel, Field


class EngineParams(BaseModel, frozen=True, extra="forbid"):
    """How many requests are answered at once, and how much memory they may use."""

    max_batch: int = Field(32, ge=1, description="Maximum number of answers that are written at the same time.")
    max_queue: int = Field(128, ge=0, description="Maximum number of requests that wait; more are refused with 429.")
    prompt_tokens_per_round: int = Field(
        512, ge=16, description="Tokens of prompts that are read between two tokens of the answers being written."
    )
    max_cache_tokens: int | None = Field(
        None, ge=16, description="Tokens whose keys and values are kept; null: as many as `memory_share` allows."
    )
    memory_share: float = Field(0.25, gt=0, le=1, description="Share of the free memory for keys and values.")
    share_prefixes: bool = Field(
        True, description="Whether the beginning of a prompt that an earlier text shares is copied, not computed."
    )
    is_batched: bool = Field(True, description="Whether requests are answered together; false: one after another.")
