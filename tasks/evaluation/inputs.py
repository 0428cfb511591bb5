"""What the metrics read: test data, models, their answers and the reward model's scores.

Everything is loaded or computed when it is first used, then shared by all metrics. All data belong to the split `test`,
which is used neither for training nor for early stopping nor for the choice of settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks import gold
from tasks.errors import NothingLeft
from tasks.evaluation import loading
from tasks.evaluation.items import Item, text_id
from tasks.pairs import count_unpaired, read_pairs_if_any, read_prompts
from tasks.progress import Progress
from tasks.tokens import Ragged, Stream, read_ragged, read_stream

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from tasks.evaluation.batches import Source

SPLIT = "test"
MAX_CACHED_BYTES = 1 << 30  # of weights; with more than this, at most two models stay in memory

T = TypeVar("T")


class NotMeasured(Exception):
    """A metric cannot be measured on the data of this run; the message is the reason."""


class ChunkParams(BaseModel, frozen=True, extra="forbid"):
    """Which model a metric of encoders measures, and which chunks of the test documents it reads."""

    model: str = Field("pretrain", description="Name of the stage whose model is measured.")
    max_length: int = Field(256, ge=2, description="Maximum length of a text, in tokens; documents are split into it.")
    max_tokens: int = Field(
        100_000, ge=1, description="Maximum number of test tokens that are read, in evenly spaced chunks."
    )


class SamplingParams(BaseModel, frozen=True, extra="forbid"):
    """Which models answer, how many test prompts they answer, and how answers are generated."""

    policies: tuple[str, ...] = Field(
        (),
        description="Names of the stages whose models answer the test prompts. If it is empty, these are all training "
        "stages of dvc.yaml whose kind is neither pretrain nor reward.",
    )
    reference: str = Field(
        "sft",
        description="Name of the stage whose model the policies were trained from. Gains, KL divergences and gates "
        "compare each policy with it.",
    )
    reward_model: str = Field("reward", description="Name of the stage whose model scores the answers.")
    num_prompts: int = Field(400, ge=2, description="Maximum number of test prompts; they are evenly spaced.")
    max_new_tokens: int = Field(64, ge=1, description="Maximum length of an answer, in tokens.")
    max_length: int | None = Field(
        None,
        ge=2,
        description="Maximum length of a prompt with its answer, in tokens. Longer pairs, and prompts after which "
        "`max_new_tokens` do not fit, are left out and counted. Null: the context of the reference model, and for "
        "pairs that of the reward model.",
    )
    batch_size: int = Field(128, ge=1, description="Number of answers that are generated or scored at once.")
    seed: int = Field(0, ge=0, description="Seed of the random numbers that sample the answers.")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user message: `ids` are the tokens up to and including the assistant's header, `text` is the plain text."""

    ids: list[int]
    text: str
    metadata: dict[str, Any]

    def item(self, score_name: str, model: str, answer: str, score: float, group: str = "") -> Item:
        """The item of a score of the answer to this prompt."""
        key = text_id(self.text, str(self.metadata.get("answer", self.metadata.get("reference", ""))))
        return Item(score_name, model, key, group, self.text, answer, float(score))


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer: `ids` include the end token if it was generated, `text` contains no special tokens."""

    ids: list[int]
    text: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference of the test split as token ids; `chosen` and `rejected` end with the end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reason: str


@dataclass
class MetricResult:
    """What one metric measured. The fields are those of tasks/reports.Report."""

    scores: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, "Figure"] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_measured: str = ""  # the reason why the metric could not be measured
    items: list[Item] = field(default_factory=list)  # what the scores were computed from


class EvaluationInputs:
    """The test data below `data` and what the models generate and score on them.

    Where something is missing, because a stage was left out for lack of data, its first use raises NotMeasured.
    """

    def __init__(self, data: Path, params: SamplingParams) -> None:
        self.data, self.params = data, params
        self._models: dict[str, tuple[Any, Any]] = {}
        self._answers: dict[tuple[str, bool], list[Answer]] = {}
        self._rewards: dict[str, npt.NDArray[np.float64]] = {}
        self.left_out_notes: list[str] = []  # what is too long to be measured with
        self.self_check_notes: list[str] = []  # how models are run that need slower methods

    @property
    def reference(self) -> str:
        """The model that every policy is compared with."""
        return self.params.reference

    @property
    def policies(self) -> tuple[str, ...]:
        """The models that answer the test prompts, the reference first, without stages that were left out."""
        others = [name for name in self.params.policies if name != self.reference and not self.left_out(name)]
        return (self.reference, *others)

    def left_out(self, name: str) -> str | None:
        """Why the stage `name` has trained no model; None if it has, or if it is a policy whose folder is missing."""
        from tasks import models

        folder = self.data / "models" / name
        if not folder.exists() and name not in (*self.params.policies, self.reference):
            return "it is no stage of this project"
        return models.left_out(folder)

    def _model_folder(self, name: str) -> Path:
        if reason := self.left_out(name):
            raise NotMeasured(f"the stage {name} was left out ({reason})")
        return self.data / "models" / name

    def stream(self, split: str = SPLIT) -> Stream:
        """The packed documents of a split. Only the n-gram baselines read the split `train`."""
        stream = read_stream(self.data / "tokens" / "documents" / split)
        if not len(stream.ids):
            raise NotMeasured(f"the split {split!r} contains no document")
        return stream

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the run, which all policies share."""
        from tasks import models

        if self.left_out(self.reference):
            return models.load_tokenizer(self.data / "tokens" / "tokenizer")
        return self._load_causal(self.reference)[1]

    @property
    def device(self) -> "torch.device":
        """The GPU if there is one, else the CPU."""
        return loading.device()

    def model(self, name: str) -> Any:
        """The causal model data/models/<name>. It stays in memory as far as MAX_CACHED_BYTES allows."""
        return self._load_causal(name)[0]

    def model_and_tokenizer(self, name: str) -> tuple[Any, Any]:
        """The causal model data/models/<name> with its own tokenizer."""
        return self._load_causal(name)

    def source(self, name: str) -> "Source":
        """The causal model data/models/<name> with its folder, from which the workers of a cluster load it."""
        from tasks.evaluation.batches import Source

        return Source(self.model(name), self._model_folder(name), self.params.max_length)

    def objective(self, name: str) -> str:
        """The pretraining objective of data/models/<name>: "causal", "masked" or "span"."""
        from tasks import models

        return models.objective(self._model_folder(name))

    def load_pretrained(self, name: str) -> tuple[Any, Any]:
        """Load the model data/models/<name> of any objective, and its tokenizer. Nothing is cached."""
        from tasks import models

        folder = self._model_folder(name)
        model, tokenizer = models.load_pretrained(folder, models.objective(folder))
        return model.to(self.device).eval(), tokenizer

    def _load_causal(self, name: str) -> tuple[Any, Any]:
        if name not in self._models:
            # KL compares two models, so that two are kept however large they are; the oldest one is dropped first.
            cached = self._models
            while len(cached) >= 2 and sum(_num_bytes(model) for model, _ in cached.values()) > MAX_CACHED_BYTES:
                cached.pop(next(iter(cached)))
            model, tokenizer, notes = loading.load_causal(self._model_folder(name), self.params.max_length)
            self.self_check_notes += [f"{name}: {note}" for note in notes]
            self._models[name] = (model, tokenizer)
        return self._models[name]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The test prompts that the gold reward can score; if there are none, all test prompts."""
        scorable = [prompt for prompt in self._all_prompts if gold.verifiable(prompt.metadata)]
        return evenly_spaced(scorable or self._all_prompts, self.params.num_prompts)

    @cached_property
    def open_prompts(self) -> list[Prompt]:
        """The test prompts that the gold reward cannot score."""
        unscorable = [prompt for prompt in self._all_prompts if not gold.verifiable(prompt.metadata)]
        return evenly_spaced(unscorable, self.params.num_prompts)

    @property
    def verifiable(self) -> bool:
        """Whether the gold reward can score the answers to `prompts`."""
        return gold.verifiable(self.prompts[0].metadata)

    @cached_property
    def _all_prompts(self) -> list[Prompt]:
        """The prompts of the split `test` that do not occur in the split `train`."""
        folder = self.data / "tokens" / "prompts"
        training_prompts = {tuple(row) for row in _lists(read_ragged(folder / "train"))}
        try:
            test = read_prompts(folder / SPLIT)
        except NothingLeft:
            raise NotMeasured(f"the split {SPLIT!r} contains no prompt") from None
        rows = [(ids.tolist(), metadata) for ids, metadata in zip(test.ids, test.metadata, strict=True)]
        unseen = [Prompt(ids, str(about["text"]), about) for ids, about in rows if tuple(ids) not in training_prompts]
        if not unseen:
            raise NotMeasured(
                "the split 'test' contains no prompt to measure with: each of them also occurs in the split 'train'"
            )
        max_length, source = self._max_length(self.model(self.reference))
        room = max_length - self.params.max_new_tokens
        prompts = [prompt for prompt in unseen if len(prompt.ids) <= room]
        if len(prompts) < len(unseen):
            limit = f"are longer than {room} tokens, so that {self.params.max_new_tokens} more would exceed {source}"
            self.left_out_notes.append(f"{len(unseen) - len(prompts):,} of {len(unseen):,} test prompts {limit}")
        if not prompts:
            raise NotMeasured(f"all {len(unseen):,} prompts of the split 'test' {limit}")
        return prompts

    def _max_length(self, model: Any) -> tuple[int, str]:
        """The maximum number of tokens of a prompt with its answer that `model` reads, and what sets it."""
        from tasks.causal.backbone import context_length

        context = context_length(model)
        if self.params.max_length and self.params.max_length <= context:
            return self.params.max_length, f"evaluation.max_length ({self.params.max_length:,})"
        return context, f"the context ({context:,})"

    @cached_property
    def pairs(self) -> list[Pair]:
        """The preferences of the split `test` that fit the context of the reward model and `max_length`."""
        folder = self.data / "tokens" / "preferences" / SPLIT
        pairs = read_pairs_if_any(folder)
        if pairs is None:
            return []
        columns = pairs.prompts, pairs.answers["chosen"], pairs.answers["rejected"]
        ids = ([row.tolist() for row in column] for column in columns)
        rows = [Pair(*row) for row in zip(*ids, pairs.reasons, strict=True)]
        max_length, source = self._max_length(self._reward_model)
        kept = [row for row in rows if len(row.prompt) + max(len(row.chosen), len(row.rejected)) <= max_length]
        if len(kept) < len(rows):
            note = f"{len(rows) - len(kept):,} of {len(rows):,} test preferences are longer than {source}"
            self.left_out_notes.append(note)
        return kept

    @property
    def num_unpaired(self) -> int:
        """The number of answers of the split `test` that were judged alone."""
        return count_unpaired(self.data / "tokens" / "preferences" / SPLIT)

    def answers(self, name: str, greedy: bool) -> list[Answer]:
        """The answers of a model to `prompts`: greedy, or sampled at temperature 1 from the whole vocabulary."""
        if (name, greedy) not in self._answers:
            self._answers[name, greedy] = self.generate_answers(name, self.prompts, greedy)
        return self._answers[name, greedy]

    def generate_answers(self, name: str, prompts: list[Prompt], greedy: bool = True) -> list[Answer]:
        """Generate the answers of a model to any prompts. They are not cached."""
        from tasks.chat_templates import ChatTemplate, end_ids
        from tasks.evaluation import batches

        source, tokenizer = self.source(name), self.tokenizer
        with Progress(f"evaluation, answers of {name}", len(prompts), "answers") as progress:
            answers, finished = batches.generate(
                source,
                [prompt.ids for prompt in prompts],
                max_new_tokens=self.params.max_new_tokens,
                end_ids=end_ids(tokenizer, source.model),
                pad_id=tokenizer.pad_token_id,
                batch_size=self.params.batch_size,
                temperature=0.0 if greedy else 1.0,
                seed=self.params.seed,
                on_answers=progress.advance,
            )
        texts = ChatTemplate.of(tokenizer).texts(answers)
        return [Answer(*row) for row in zip(answers, texts, finished, strict=True)]

    def sampled_rewards(self, name: str) -> npt.NDArray[np.float64]:
        """The reward model's score of each sampled answer of a model, [num_prompts]."""
        if name not in self._rewards:
            answers = self.answers(name, greedy=False)
            self._rewards[name] = self.rewards([p.ids + a.ids for p, a in zip(self.prompts, answers, strict=True)])
        return self._rewards[name]

    def rewards(self, sequences: Sequence[list[int]]) -> npt.NDArray[np.float64]:
        """The reward model's score of each sequence (a prompt followed by an answer), [num_sequences]."""
        from tasks.answers import reward_scores
        from tasks.chat_templates import ChatTemplate

        template = ChatTemplate.of(self.tokenizer)
        complete = [template.complete(sequence) for sequence in sequences]
        pad_id, batch_size = self.tokenizer.pad_token_id, self.params.batch_size
        return reward_scores(self._reward_model, complete, pad_id=pad_id, batch_size=batch_size).double().numpy()

    @cached_property
    def _reward_model(self) -> Any:
        from tasks import models

        name = self.params.reward_model
        model, tokenizer = models.load_reward(self._model_folder(name))
        notes = loading.check(model.to(self.device), tokenizer, self.params.max_length)
        self.self_check_notes += [f"{name}: {note}" for note in notes]
        return model.eval()


def evenly_spaced(items: Sequence[T], max_items: int) -> list[T]:
    """At most `max_items` of the items, evenly spaced, in their order."""
    if len(items) <= max_items:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, max_items).round().astype(int)]


def _num_bytes(model: Any) -> int:
    return sum(int(parameter.nbytes) for parameter in model.parameters())


def _lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[index].tolist() for index in range(len(ragged))]
