"""The section `promotion` of params.yaml: which model may become the champion, and what it must beat."""

from pydantic import BaseModel, Field

from tasks.comparison import PRIMARY, Settings


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which model of a run is the candidate, and when it replaces the champion."""

    model: str | None = Field(
        None,
        description="Name of the stage whose model is the candidate; null: the one that chat and server use, which is "
        "that of the last stage of dvc.yaml that answers prompts, or else of the last pretraining.",
    )
    primary: tuple[str, ...] = Field(
        PRIMARY,
        min_length=1,
        description="Names of the primary metric, by the keys of evaluation.json, with MODEL for the candidate. The "
        "first one that the candidate or the champion has measured decides, so that the default works with and without "
        "verifiable answers. A test set of your own is benchmarks.NAME.accuracy.MODEL.",
    )
    margin: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Differences below this are equivalent: a difference of scores from 0 to 1, and otherwise "
        "a share of the champion's score.",
    )
    min_common: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the test items of either model that the other one must have been measured on as well; "
        "with less, the models are not comparable.",
    )
    max_leaked: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the items of a primary test set of your own that may occur in the training data; with "
        "more, the model gets no alias. Curation checks the built-in test split.",
    )
    automatic: bool = Field(
        True,
        description="Whether the pipeline promotes after evaluation; if not, `python -m flows.promotion update` does.",
    )
    keep: int = Field(
        3,
        ge=1,
        description="Number of former champions whose files are kept for a rollback, besides the current models.",
    )
    name: str = Field(
        "athanor", pattern=r"^[\w -]+$", description="Name of the model in MLflow's registry that has the two aliases."
    )

    @property
    def settings(self) -> Settings:
        """The same for a comparison."""
        return Settings(self.margin, self.min_common, tuple(self.primary))
