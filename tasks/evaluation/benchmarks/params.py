"""The paragraphs of params.yaml under evaluation.benchmarks: where a test set is, and how it is read and scored."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from tasks import catalog
from tasks.evaluation.benchmarks import fields

Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Type = Literal["multiple_choice", "cloze", "generation", "minimal_pairs", "perplexity"]
GenerationMetric = Literal["exact_match", "f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
Normalization = Literal["raw", "token", "byte", "unconditional"]
FieldValue = str | int | float | bool | list[Any]

REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {  # type -> sets of fields, of which one is needed
    "multiple_choice": (("choices", "gold"), ("contexts", "continuation", "gold")),
    "cloze": (("continuation",),),
    "generation": (("references",),),
    "minimal_pairs": (("good", "bad"),),
    "perplexity": (("text",),),
}
OPTIONAL: dict[str, tuple[str, ...]] = {  # type -> fields that a set may have; each may have id and group
    "multiple_choice": ("question",),
    "cloze": ("context",),
    "generation": ("prompt", "messages"),
    "minimal_pairs": (),
    "perplexity": (),
}


class Rows(BaseModel, frozen=True, extra="forbid"):
    """Where rows are: files, or a data set of the Hugging Face Hub."""

    paths: Paths = Field(
        (),
        description="Files, folders or globs: JSON Lines, JSON, CSV, TSV, Parquet or text, also compressed (.gz, .zst, "
        ".bz2, .xz) or in .zip and .tar archives.",
    )
    members: str = Field("*", description="Glob that selects the members of archives, such as `dev/*.csv`.")
    hub: str | None = Field(None, description="Name of a data set of the Hugging Face Hub, instead of `paths`.")
    config: str | None = Field(None, description="Configuration (subset) of the data set of the Hub.")
    split: str = Field("test", description="Split of the data set of the Hub.")
    revision: str | None = Field(None, description="Commit of the data set of the Hub, so that it cannot change.")
    columns: tuple[str, ...] = Field(
        (), description="Names of the columns of CSV files without a header. Empty: the first line names them."
    )
    explode: str | None = Field(
        None,
        description="Path of a list within a row, such as the questions about one text. Each element gives an item; "
        "fields refer to it as `item`, and to the row as `row`.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Rows":
        if bool(self.paths) == bool(self.hub):
            raise ValueError("expected either `paths` or `hub`, and not both")
        return self


class FewShot(BaseModel, frozen=True, extra="forbid"):
    """Solved examples in front of each question."""

    num: int = Field(ge=1, description="Number of examples in front of each question.")
    rows: Rows | None = Field(
        None,
        description="Where the examples are: the stated split. Null: the rows of the test set itself; then an item is "
        "never its own example.",
    )
    order: Literal["first", "random"] = Field(
        "first", description="first: the first examples for every question; random: other ones for each question."
    )
    seed: int = Field(0, ge=0, description="Seed of the random choice; it depends on the id of the question, too.")
    separator: str = Field("\n\n", description="Text between two examples, and before the question.")


class BenchmarkSet(Rows, frozen=True):
    """A test set of your own."""

    type: Type = Field(description="How the set is scored.")
    fields: dict[str, FieldValue] = Field(
        default_factory=dict,
        description="Field of the type -> where its value is: the path of a column (`question`, `other.source`, "
        "`0.1`), a template with {{ }}, an expression that begins with `=`, or a list of these. The fields are, for "
        "multiple_choice: question, choices, gold (or contexts, continuation, gold); cloze: context, continuation; "
        "generation: prompt or messages, references; minimal_pairs: good, bad; perplexity: text. All types: id, group.",
    )
    gold_is: Literal["auto", "index", "index_from_1", "letter", "text"] = Field(
        "auto",
        description="What `gold` states: the index of a choice from 0 or from 1, a letter (A is the first), or the "
        "text of the choice. auto: numbers are indices from 0; a text is a choice, a letter, or an index, if "
        "only one of these is possible.",
    )
    labels: dict[str | int | bool, str | int] = Field(
        default_factory=dict, description="Value of `gold` in the file -> value to use, such as {Positive: 好}."
    )
    prompt: str = Field(
        "",
        description="Template of the prompt with {{ question }} and the other fields; also {{ choices }} and "
        "{{ letters }}. Empty: the question, the context or the prompt itself.",
    )
    answer: str = Field(
        "",
        description="Template of what the model continues with, for each choice: {{ choice }}, {{ letter }}. Empty: a "
        "space, if the text before it does not end with one and is not Chinese, and the choice or continuation.",
    )
    few_shot: FewShot | None = Field(None, description="Solved examples in front of each question; null: none.")
    normalizations: tuple[Normalization, ...] = Field(
        ("raw", "byte"),
        min_length=1,
        description="How the log-likelihoods of choices are compared, each as an accuracy of its own: raw, per token, "
        "per byte, or minus the log-likelihood after `unconditional_prompt` (PMI). The first is the main one.",
    )
    unconditional_prompt: str = Field("Answer:", description="Prompt of the unconditional log-likelihood.")
    metrics: tuple[GenerationMetric, ...] = Field(
        ("exact_match", "f1"), min_length=1, description="Metrics of the type generation. The first is the main one."
    )
    extract: str | None = Field(
        None,
        description="Regular expression that finds the answer in a generated text; its last match counts, of that the "
        "last group that took part. Text without a match counts as wrong, and is counted.",
    )
    extract_reference: str | None = Field(None, description="The same for references, such as `#### (.*)`.")
    ignore_case: bool = Field(True, description="Whether exact match ignores case, width and the closing mark.")
    max_new_tokens: int = Field(64, ge=1, description="Maximum number of tokens of a generated answer.")
    stop: tuple[str, ...] = Field((), description="Texts that end an answer, besides the end token.")
    chat: bool = Field(
        False, description="Whether prompts are rendered with the chat template, instead of being read as plain text."
    )
    window: int | None = Field(
        None, ge=2, description="Number of tokens of a window of the type perplexity; null: the context of the model."
    )
    stride: int | None = Field(
        None, ge=1, description="Number of tokens by which the window moves; null: as many as it has (no overlap)."
    )
    models: tuple[str, ...] = Field(
        (), description="Names of the stages whose models are measured. Empty: pretrain and all policies."
    )
    max_items: int | None = Field(None, ge=1, description="Maximum number of items, evenly spaced; null: all of them.")
    prefix: Literal["bos", "tokenizer", "none"] = Field(
        "bos",
        description="What precedes plain text: the token that begins a document, what the tokenizer itself adds, or "
        "nothing.",
    )
    max_bad_rows: float = Field(
        0.05, ge=0, le=1, description="Share of rows that may be unusable; with more, the set is an error."
    )

    @field_validator("extract", "extract_reference")
    @classmethod
    def _valid_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression: {error}") from error
        return value

    @field_validator("fields", "prompt", "answer", "explode")
    @classmethod
    def _valid_templates(cls, value: Any) -> Any:
        places = list(value.values()) if isinstance(value, dict) else [value]
        if problems := list(fields.syntax_problems(places)):
            raise ValueError("; ".join(problems))
        return value

    @model_validator(mode="after")
    def _known_fields(self) -> "BenchmarkSet":
        """A field that the type does not have must be a name in a template; otherwise it is a mistake in writing."""
        known = [*dict.fromkeys(name for needed in REQUIRED[self.type] for name in needed), *OPTIONAL[self.type]]
        known += ["id", "group"]
        for name in self.fields:
            if name not in known and not re.search(rf"\b{re.escape(name)}\b", f"{self.prompt} {self.answer}"):
                hint = catalog.suggest(name, known)
                raise ValueError(f"the type {self.type} has no field {name!r}, and no template uses it; {hint}")
        return self

    @model_validator(mode="after")
    def _needed_fields(self) -> "BenchmarkSet":
        names, choices = set(self.fields), REQUIRED[self.type]
        if not any(names >= set(needed) for needed in choices):
            expected = " or ".join(", ".join(needed) for needed in choices)
            raise ValueError(f"the type {self.type} needs `fields` with {expected}; received {sorted(names) or 'none'}")
        has_prompt = {"question", "contexts", "prompt", "messages"} & names or self.prompt or self.answer
        if "contexts" in names and "continuation" not in names:
            raise ValueError("`contexts` needs `continuation`, the text that follows each of them")
        if self.few_shot and self.type in ("minimal_pairs", "perplexity"):
            raise ValueError(f"the type {self.type} has no prompt, so that `few_shot` has no effect; remove it")
        if self.type in ("multiple_choice", "generation") and not has_prompt:
            needed = "question" if self.type == "multiple_choice" else "prompt or messages"
            raise ValueError(f"the type {self.type} needs {needed} under `fields`, or a template `prompt`")
        return self

    def score_names(self, name: str) -> list[str]:
        """The names of the scores of this set, which is called `name`, as gates spell them."""
        by_normalization = [f"accuracy_{one}" for one in self.normalizations[1:]]
        names: dict[str, list[str]] = {
            "multiple_choice": ["accuracy", *by_normalization, "bits_per_byte", "calibration_error", "brier"],
            "cloze": ["accuracy", "bits_per_byte"],
            "minimal_pairs": ["accuracy", "bits_per_byte"],
            "generation": [*self.metrics, "ended"],
            "perplexity": ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"],
        }
        by_group = ["accuracy_by_group.MODEL.*"] if "accuracy" in names[self.type] else []
        scores = [*(f"{score}.MODEL" for score in names[self.type]), *by_group, "about.*"]
        return [f"benchmarks.{name}.{score}" for score in scores]
