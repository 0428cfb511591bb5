"""Checks across the sections of params.yaml: what each section alone cannot know. They run before any stage does."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from flows.runtime import data_kinds
from tasks import catalog

Location = tuple[str | int, ...]


class Problem(NamedTuple):
    """The keys below the section, and what is wrong there, with what is expected and how to correct it."""

    location: Location
    text: str


Problems = Iterator[Problem]

# DVC refuses punctuation in the name of a stage. A source becomes a part of MLflow's keys and of file names.
STAGE_NAME, SOURCE_NAME = re.compile(r"\w[\w-]*"), re.compile(r"\w([\w. -]*[\w-])?")
MAX_NAME = 100
DEFAULT_BASES = {"sft": "pretrain", "reward": "sft", "dpo": "sft", "ppo": "sft"}
GATE_METRICS = {  # gate -> the metric that measures what it needs
    "min_unigram_ratio": "perplexity",
    "below_bigram": "perplexity",
    "min_exact_match": "accuracy",
    "max_exact_match_loss": "accuracy",
    "min_reward_accuracy": "reward_accuracy",
    "min_gold_gain": "gold",
    "max_kl": "kl",
}
# (kind of stage, key, key that decides, values with which the first key has an effect)
EFFECTIVE_WITH: list[tuple[str, str, str, tuple[str | None, ...]]] = [
    ("pretrain", "masking", "objective", ("masked",)),
    ("pretrain", "span_corruption", "objective", ("span",)),
    ("dpo", "label_smoothing", "loss", ("sigmoid",)),
    ("dpo", "desirable_weight", "loss", ("kto",)),
    ("ppo", "critic", "advantage", ("gae",)),
    ("tokenization", "vocab_size", "tokenizer", (None,)),
]


@dataclass(frozen=True)
class Section:
    """A section of params.yaml: its stage, the kind of that stage, its valid Params, and the whole file around it.

    `kinds`: stage -> kind, for all sections of the file.
    """

    stage: str
    kind: str
    params: Any
    body: Mapping[str, Any]
    kinds: Mapping[str, str]

    @property
    def trained(self) -> list[str]:
        """The stages that train a model."""
        return sorted(name for name, kind in self.kinds.items() if kind not in data_kinds.PACKAGES)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that tokenization loads; None if it trains a new one."""
        return data_kinds.mapping(self.body, "tokenization").get("tokenizer")

    @property
    def written(self) -> Mapping[str, Any]:
        """The keys that the section itself contains."""
        return data_kinds.mapping(self.body, self.stage)


def problems(section: Section) -> Problems:
    """Yield the location and the description of each contradiction of `section` with itself or with other sections."""
    yield from _finite(section.written, ())
    for kind, key, decider, values in EFFECTIVE_WITH:
        if (
            kind == section.kind
            and key in section.written
            and (value := getattr(section.params, decider)) not in values
        ):
            expected = " or ".join(f"{decider}: {'null' if choice is None else choice}" for choice in values)
            yield Problem((key,), f"has no effect with {decider}: {value}; remove it, or set {expected}")
    for check in CHECKS.get(section.kind, ()):
        yield from check(section)
    if all(hasattr(section.params, key) for key in ("steps", "warmup_steps", "launch", "base", "data")):
        for check in (_warmup, _processes, _base, _initial_model):
            yield from check(section)


def _finite(value: Any, location: Location) -> Problems:
    """Numbers must be finite: YAML reads .inf and .nan, which pass bounds such as `> 0`, or fail in the middle."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        yield Problem(location, f"expected a finite number, not {value}")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _finite(part, (*location, key))


def name(stage: str) -> Iterator[str]:
    """Yield what is wrong with the name of a section that has a name of its own (`stage: <kind>`)."""
    if not STAGE_NAME.fullmatch(stage) or len(stage) > MAX_NAME:
        yield (
            "the name of a stage consists of letters, digits, _ and -, because DVC refuses others; for example "
            f"{_simplified(stage, STAGE_NAME)!r}"
        )


def _source_names(section: Section) -> Problems:
    for name in section.params.sources:
        if not SOURCE_NAME.fullmatch(name) or len(name) > MAX_NAME:
            yield Problem(
                ("sources", name),
                f"the name of a source consists of at most {MAX_NAME} letters, digits, spaces, _, - and ., because "
                f"MLflow and file systems refuse others; for example {_simplified(name, SOURCE_NAME)!r}",
            )


def _simplified(name: str, pattern: re.Pattern[str]) -> str:
    """Return a name like `name` that matches `pattern`."""
    simplified = re.sub(r"[^\w-]+", "_", name).strip("_-")[:MAX_NAME]
    return simplified if pattern.fullmatch(simplified) else "handbook"


def _warmup(section: Section) -> Problems:
    warmup_steps, steps = section.params.warmup_steps, section.params.steps
    if warmup_steps is not None and warmup_steps >= steps > 1:
        scratch = section.params.from_scratch
        is_of_scratch = scratch is not None and "warmup_steps" in scratch.model_fields_set
        yield Problem(
            ("from_scratch", "warmup_steps") if is_of_scratch else ("warmup_steps",),
            f"the warm-up of {warmup_steps} steps is not shorter than the run of {steps} steps, so that the learning "
            f"rate would never fall from its peak; expected less than {steps}, for example {steps // 20}",
        )


def _processes(section: Section) -> Problems:
    """A step needs a micro-batch for each process, and tensor parallelism divides the heads among the processes."""
    params, count = section.params, section.params.launch.count
    is_tensor = params.launch.strategy == "tensor"
    if section.kind in ("pretrain", "sft") and count > 1 and not is_tensor:
        rows, size = params.global_batch_size, params.micro_batch_size
        if (num_batches := -(-rows // size)) < count:
            both = "" if rows >= count else f" and global_batch_size: {count}"
            yield Problem(
                ("micro_batch_size",),
                f"a step has {num_batches} micro-batches (global_batch_size {rows} divided by micro_batch_size {size}) "
                f"for {count} processes, so that some would be idle; set micro_batch_size: {max(1, rows // count)}"
                + both,
            )
    if section.kind == "pretrain" and is_tensor and params.base is None:
        heads = params.model.num_key_value_heads or params.model.num_heads
        if heads % count:
            yield Problem(
                ("launch", "processes"),
                f"the strategy tensor divides the {heads} heads of pretrain.model among {count} processes; choose a "
                f"divisor of {heads}, or another strategy",
            )


def _base(section: Section) -> Problems:
    """The model that a stage starts from must be a stage, an existing folder, or possibly a name on the hub."""
    base, trained = section.params.base, section.trained
    if base is None:
        return
    name = _stage_of(base)
    if name == section.stage:
        yield Problem(("base",), f"a stage cannot start from its own model; available: {', '.join(trained)}")
    elif name in trained or Path(base).is_dir():
        return
    elif base.startswith(("/", ".", "~", "data/")):
        yield Problem(("base",), f"there is no folder {base}; expected a model folder, a stage or a name on the hub")
    elif "/" not in base and "did you mean" in (suggestion := catalog.suggest(base, trained)):
        # Any other word may be a name on the hub, such as gpt2.
        yield Problem(("base",), f"neither a stage nor a folder is called {base!r}; {suggestion}")
    elif "tokenization" in section.body and section.params.data is None and section.tokenizer is None:
        yield Problem(
            ("base",),
            f"the model {base} needs its own tokenizer, but tokenization would train a new one; set "
            f"tokenization.tokenizer: {base}",
        )


def _stage_of(base: str) -> str:
    """Return the name of the stage that writes the model `base`: `sft` for `data/models/sft`."""
    return base.removeprefix("data/models/").rstrip("/")


def _initial_model(section: Section) -> Problems:
    """A stage that has data needs a model to start from, although the stage before it may have none."""
    kinds = data_kinds.of_sources(section.body)
    if section.kind not in DEFAULT_BASES or kinds is None or section.params.data is not None:
        return
    stage, checked = section.stage, set[str]()
    while stage not in checked:
        kind = section.kinds.get(stage, stage)
        if stage in checked or stage not in section.body or (checked and data_kinds.has_data(kind, kinds)):
            return
        if not data_kinds.has_data(kind, kinds) and not checked:
            return  # the stage itself is left out
        checked.add(stage)
        base = data_kinds.mapping(section.body, stage).get("base") or DEFAULT_BASES.get(kind)
        if base is None:
            missing = " or ".join(data_kinds.NEEDED[kind])
            yield Problem(
                (),
                f"no model to start from: {stage} is left out, because no source of ingestion has {missing}. Set "
                f"{section.stage}.base to a model (a folder or a name on the hub), or add a source of {missing}",
            )
            return
        stage = _stage_of(str(base))


def _pretrain(section: Section) -> Problems:
    params, model = section.params, section.params.model
    if params.base is not None and "model" in section.written:
        yield Problem(
            ("model",), f"has no effect with base: {params.base}, which has a shape already; remove one of them"
        )
    has_tokens = bool(data_kinds.mapping(section.body, "tokenization").get("fill_in_middle"))
    makes_tokenizer = "tokenization" in section.body and section.tokenizer is None and params.data is None
    if params.fill_in_middle and makes_tokenizer and not has_tokens:
        yield Problem(
            ("fill_in_middle",),
            "needs special tokens, which a new tokenizer has with tokenization.fill_in_middle: true; set it",
        )
    limit = model.max_length if params.base is None and model.kind in ("gpt2", "bert") else None
    for stage, key in (("tokenization", "sequence_length"), ("reward", "max_length"), ("dpo", "max_length")):
        length = data_kinds.mapping(section.body, stage).get(key)
        if limit is not None and isinstance(length, int) and length > limit:
            yield Problem(
                ("model", "max_length"),
                f"{limit} is less than {stage}.{key} ({length}), and {model.kind} has no positions beyond it; "
                f"increase max_length, or decrease {stage}.{key}",
            )


def _mixture(section: Section) -> Problems:
    """The names of a mixture by source must be the sources that have data for the stage."""
    providers, mixture = data_kinds.sources(section.body), section.params.mixture
    if mixture is None or providers is None or section.params.mixture_by != "source" or section.params.data is not None:
        return
    needed = set(data_kinds.NEEDED[section.kind])
    names = [name for name, kinds in providers.items() if set(kinds) & needed]
    for name in mixture:
        if name not in names:
            what = f"has no {' or '.join(needed)}" if name in providers else "is not a source of ingestion"
            yield Problem(("mixture", name), f"{name!r} {what}; {catalog.suggest(name, names)}")
    if missing := [name for name in names if name not in mixture]:
        yield Problem(("mixture",), f"needs a share for {', '.join(missing)}, too; 0 leaves a source out")


def _prompt_sources(section: Section) -> Problems:
    providers = data_kinds.sources(section.body)
    if providers is None or section.params.data is not None:
        return
    names = [name for name, kinds in providers.items() if set(kinds) & {"conversations", "preferences"}]
    for index, name in enumerate(section.params.prompt_sources or ()):
        if name not in names:
            why = "has documents only, no prompts" if name in providers else "is not a source of ingestion"
            hint = catalog.suggest(name, names) if names else "no source has conversations or preferences"
            yield Problem(
                ("prompt_sources", index),
                f"{name!r} {why}; {hint}. Without prompt_sources, the prompts are chosen by the sources that have "
                "preferences",
            )


def _evaluation(section: Section) -> Problems:
    metrics = {name for name, _ in section.params.active_metrics()}
    for gate, metric in GATE_METRICS.items():
        if getattr(section.params.gates, gate) not in (None, False) and metric not in metrics:
            yield Problem(
                ("gates", gate),
                f"the gate needs the metric {metric}, which is not measured; add `{metric}: {{}}` under "
                "evaluation.metrics, or set the gate to null",
            )
    trained = section.trained
    named: list[tuple[Location, str]] = [(("reference",), section.params.reference)]
    named += [(("reward_model",), section.params.reward_model)]
    named += [(("policies", index), name) for index, name in enumerate(section.params.policies)]
    for name, params in section.params.active_metrics():
        for key in ("model", "stage"):
            named += [(("metrics", name, key), getattr(params, key))] if hasattr(params, key) else []
        for key in ("models", "extra_models"):
            named += [(("metrics", name, key, i), model) for i, model in enumerate(getattr(params, key, ()))]
    for name, own in section.params.benchmarks.items():
        named += [(("benchmarks", name, "models", i), model) for i, model in enumerate(own.models)]
    is_whole_file = len(section.kinds) > 1  # a file with this section alone names no stage
    for pattern, text in section.params.unknown_scores(section.params.gates.scores, trained if is_whole_file else ()):
        yield Problem(("gates", "scores", pattern), text)
    for location, stage in named:
        if stage not in trained and is_whole_file:
            yield Problem(location, f"no stage {stage!r} trains a model; {catalog.suggest(stage, trained)}")


def _promotion(section: Section) -> Problems:
    """The names of primary metrics, by the section of evaluation; what is wrong with that one is reported there."""
    try:
        evaluation = importlib.import_module("tasks.evaluation.tasks").Params.model_validate(
            data_kinds.mapping(section.body, "evaluation")
        )
    except ValueError:
        return
    patterns = {pattern.replace("MODEL", "*"): pattern for pattern in section.written.get("primary", ())}
    for pattern, text in evaluation.unknown_scores(patterns, section.trained):
        yield Problem(("primary", section.params.primary.index(patterns[pattern])), text)


CHECKS: dict[str, Sequence[Callable[[Section], Problems]]] = {
    "ingestion": (_source_names,),
    "pretrain": (_pretrain, _mixture),
    "sft": (_mixture,),
    "ppo": (_prompt_sources,),
    "dpo": (_prompt_sources,),
    "evaluation": (_evaluation,),
    "promotion": (_promotion,),
}


def section_of(stage: str, kind: str, params: BaseModel, body: Mapping[str, Any], kinds: Mapping[str, str]) -> Section:
    """Return the section `stage`; `kinds` names the kinds of stages that have a name of their own."""
    return Section(stage, kind, params, body, {str(name): kinds.get(str(name), str(name)) for name in body})
