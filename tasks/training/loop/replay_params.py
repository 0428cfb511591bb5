"""Settings of the replay: text that a trained base knows, among the rows of a stage."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator


class Replay(BaseModel, frozen=True, extra="forbid"):
    """How much text a stage replays, and which."""

    share: float = Field(0.1, gt=0, lt=1, description="Share of the rows of a run that are replayed text.")
    text: Literal["base", "documents"] = Field(
        "base", description="The text: samples that the base itself draws before the first step, or the training "
        "documents of the pipeline (add those that the base was trained on as a source of ingestion).",
    )  # fmt: skip
    sources: tuple[str, ...] | None = Field(
        None, description="Sources of ingestion whose documents are replayed, with text: documents; null takes all."
    )
    max_tokens: int = Field(
        16_384, ge=1, description="Maximum number of tokens that the base draws; a long run reads them several times.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _sources_of_documents(self) -> "Replay":
        if self.sources is not None and self.text != "documents":
            raise ValueError("replay.sources selects documents; set replay.text: documents, or remove sources")
        return self


class ReplayParams(BaseModel, frozen=True):
    """The replay of a stage that trains on packed rows."""

    replay: Replay | None = Field(
        None, description="Text that the base knows, among the rows of the stage. If it is not stated, a causal model "
        "that descends from a trained base replays samples of the base in sft and pretrain; null replays nothing.",
    )  # fmt: skip
