"""Find plug-ins by file name, and state what each kind of plug-in must define.

A plug-in is one Python file in the folder of its kind. The file name is its registration: there is no decorator and no
list. The Protocols below are the contracts of the six kinds; `find` refuses a file that does not fulfill its contract.
"""

import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pydantic import BaseModel

from tasks.errors import BadParams


class SourceModule(Protocol):
    """A file of tasks/ingestion/sources/: reads one format or place."""

    Params: type[BaseModel]

    def read(self, params: Any, counts: Any) -> Iterator[Any]:
        """Yield a Document, Conversation, Preference or Quarantined for each record. Raises BadInput.

        `counts.add(file)` is called for each row before it is processed; rows that are counted must be yielded.
        """


class SourceHooks(Protocol):
    """Functions that a source may define in addition. A source with `read_file` is read by the workers of a cluster."""

    def read_file(self, file: Any, params: Any) -> Iterator[Any]:
        """Yield what `read` yields for one of its files, which does not depend on the others; count its rows."""

    def suffixes(self, params: Any) -> tuple[str, ...]:
        """Return the endings of the files that are read, if SUFFIXES depends on the params."""

    def divide(self, file: Any, params: Any, max_bytes: int) -> Any:
        """Return a list of ranges of one file, as values of JSON; an empty one if it is read as a whole."""

    def read_range(self, file: Any, params: Any, part: Any) -> Iterator[Any]:
        """Yield the records of one of these ranges. Those of all ranges, in their order, are those of `read_file`."""


class FilterModule(Protocol):
    """A file of tasks/curation/filters/: decides which documents are dropped, and why."""

    Params: type[BaseModel]

    def drop_reasons(
        self, signals: Any, params: Any, text_measurements: Any = None, metadata_measurements: Any = None
    ) -> Mapping[str, Any]:
        """Return reason -> Verdict or boolean mask [documents]. The first reason that applies is recorded.

        `text_measurements` is passed only to a filter that defines `measure_texts`, and `metadata_measurements` only to
        one that defines `measure_metadata`. The latter needs a default, because documents may be filtered without their
        metadata; the former needs one if the filter defines `needs_texts`.
        """


class FilterHooks(Protocol):
    """Functions that a filter may define in addition."""

    def measure_texts(self, texts: Any, params: Any) -> Any:
        """Measure the texts (Arrow strings) if the stored signals do not suffice; passed on as `text_measurements`."""

    def measure_metadata(self, metadata: Any, params: Any) -> Any:
        """Measure the metadata (JSON objects as Arrow strings); passed on as `metadata_measurements`."""

    def needs_texts(self, params: Any) -> bool:
        """Return whether `measure_texts` is called with these params; without this function it always is."""

    def edit_text(self, text: str, params: Any) -> str:
        """Return the text of a kept document with parts removed."""

    def default_params(self, languages: Any) -> Mapping[str, Any]:
        """Return the defaults of params that depend on the languages (sorted ISO 639-1 codes) of the corpus."""


class MetricModule(Protocol):
    """A file of tasks/evaluation/metrics/: measures models on test data.

    SCORES: the names of all scores that it may return, as gates spell them: keys joined by dots, with MODEL for the
    name of a stage and `*` for keys that depend on the data (score_gates.py).
    """

    Params: type[BaseModel]
    SCORES: tuple[str, ...]

    def measure(self, inputs: Any, params: Any) -> Any:
        """Return a MetricResult: scores with number of items and confidence interval, tables, figures, notes."""


class AdapterModule(Protocol):
    """A file of tasks/training/adapters/: one method of parameter-efficient fine-tuning (PEFT)."""

    Params: type[BaseModel]

    def attach(self, model: Any, params: Any) -> Any:
        """Return the model to train: `model` with an adapter."""


class StageModule(Protocol):
    """A file of tasks/training/stages/: trains one kind of model."""

    Params: type[BaseModel]

    def train(self, params: Any, data: Path, checkpoints: Path, timings: Any, name: str) -> Any:
        """Read tokens and models below `data`, write a model folder there, and return a Report."""


class StrategyModule(Protocol):
    """A file of tasks/training/parallel/strategies/: distributes a model and its batches among processes."""

    def share(self, work: Any, dtype: Any, device: Any) -> Any:
        """Return a Strategy that holds the weights of `work.model`."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a file of one kind must define (`required`) and may define (`optional`).

    suppliers: parameter of a required function -> the optional function that supplies it; without that function the
    parameter is not passed.
    """

    kind: str
    required: type
    optional: type = object
    suppliers: Mapping[str, str] = field(default_factory=dict)


_MEASUREMENTS = {"text_measurements": "measure_texts", "metadata_measurements": "measure_metadata"}

CONTRACTS = {
    "sources": Contract("source", SourceModule, SourceHooks),
    "filters": Contract("filter", FilterModule, FilterHooks, _MEASUREMENTS),
    "metrics": Contract("metric", MetricModule),
    "adapters": Contract("adapter", AdapterModule),
    "stages": Contract("stage", StageModule),
    "strategies": Contract("strategy", StrategyModule),
}
"""Folder name -> contract of the files in it."""


def names(package: str) -> list[str]:
    """The modules of `package` (such as "tasks.curation.filters"), sorted, without importing them or the package."""
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package, which may import torch
    folders = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in pkgutil.iter_modules(folders or []) if not module.name.startswith("_"))


@functools.cache
def find(package: str, name: str) -> ModuleType:
    """The module `name` of `package`. Raises BadParams if there is none, or if it does not fulfill its contract."""
    contract = CONTRACTS[package.rsplit(".", 1)[-1]]
    available = names(package)
    if name not in available:
        raise BadParams(f"no {contract.kind} {name!r}; {suggest(name, available)}")
    try:
        module = importlib.import_module(f"{package}.{name}")
    except (ImportError, SyntaxError) as error:
        raise BadParams(
            f"the {contract.kind} {name!r} cannot be imported from {package}: {type(error).__name__}: {error}"
        ) from error
    if problems := violations(module, contract):
        raise BadParams(f"{module.__file__} is not a complete {contract.kind}: {'; '.join(problems)}")
    return module


def suggest(name: str, available: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the most similar available name, then all of them."""
    available = sorted(available)
    similar = difflib.get_close_matches(name, available, n=1)
    question = f"did you mean {similar[0]!r}? " if similar else ""
    return f"{question}available: {', '.join(available)}"


def violations(module: Any, contract: Contract) -> list[str]:
    """What `module` lacks to fulfill `contract`, one phrase for each problem; empty if it fulfills it."""
    problems = []
    if "Params" in inspect.get_annotations(contract.required) and not _is_strict(getattr(module, "Params", None)):
        problems.append("it needs `class Params(BaseModel, frozen=True, extra='forbid')`")
    optional = {name: names for name, names in _functions(contract.optional).items() if hasattr(module, name)}
    if "SCORES" in inspect.get_annotations(contract.required) and not isinstance(
        getattr(module, "SCORES", None), tuple
    ):
        problems.append("it needs `SCORES`, a tuple with the names of its scores")
    for name, expected in (_functions(contract.required) | optional).items():
        passed = [p for p in expected if p not in contract.suppliers or hasattr(module, contract.suppliers[p])]
        if not _accepts(getattr(module, name, None), passed):
            problems.append(f"it needs the function `{name}({', '.join(passed)})`")
    return problems


def _is_strict(params: Any) -> bool:
    """Whether this is a model that is immutable and refuses unknown keys."""
    is_model = isinstance(params, type) and issubclass(params, BaseModel)
    return is_model and bool(params.model_config.get("frozen")) and params.model_config.get("extra") == "forbid"


def _accepts(function: Any, passed: list[str]) -> bool:
    """Whether the first parameters of `function` have the names `passed`, and all others have a default."""
    if not callable(function):
        return False
    parameters = list(inspect.signature(function).parameters.values())
    remaining = parameters[len(passed) :]
    return [p.name for p in parameters[: len(passed)]] == passed and all(p.default is not p.empty for p in remaining)


def _functions(protocol: type) -> dict[str, list[str]]:
    """Function -> names of its parameters without `self`, for the public functions that a Protocol declares."""
    declared = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: list(inspect.signature(function).parameters)[1:] for name, function in declared.items()}
