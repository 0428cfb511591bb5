"""Every plug-in of every kind against its contract, and what `catalog.find` says about a file that breaks it."""

import importlib
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasks import catalog
from tasks.errors import BadParams

PACKAGES = (
    "tasks.ingestion.sources",
    "tasks.curation.filters",
    "tasks.evaluation.metrics",
    "tasks.training.adapters",
    "tasks.training.stages",
    "tasks.training.parallel.strategies",
)
PLUGINS = [(package, name) for package in PACKAGES for name in catalog.names(package)]
WITH_PARAMS = [(package, name) for package, name in PLUGINS if not package.endswith("strategies")]
PARAMS = 'class Params(BaseModel, frozen=True, extra="forbid"):\n    """None."""\n'
DROP_REASONS = "def drop_reasons(signals, params):\n    return {}\n"
MEASURE_TEXTS = "def measure_texts(texts, params):\n    return {}\n"


def nested_models(params: type[BaseModel]) -> set[type[BaseModel]]:
    """`params` and every model that the type of one of its fields names."""
    models, waiting = set[type[BaseModel]](), [params]
    while waiting:
        model = waiting.pop()
        if model not in models and model is not BaseModel:
            models.add(model)
            waiting += [part for field in model.model_fields.values() for part in models_in(field.annotation)]
    return models


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


@pytest.mark.parametrize(("package", "name"), PLUGINS, ids=lambda value: value.rsplit(".", 1)[-1])
def test_every_plug_in_fulfills_its_contract(package: str, name: str) -> None:
    module = catalog.find(package, name)
    assert module.__doc__, f"{module.__file__} needs a docstring"
    contract = catalog.CONTRACTS[package.rsplit(".", 1)[-1]]
    assert not catalog.violations(module, contract)


@pytest.mark.parametrize(("package", "name"), WITH_PARAMS, ids=lambda value: value.rsplit(".", 1)[-1])
def test_every_field_of_params_has_a_description(package: str, name: str) -> None:
    for model in nested_models(catalog.find(package, name).Params):
        without = [key for key, field in model.model_fields.items() if not field.description]
        assert not without, f"{model.__module__}.{model.__name__}: no description of {', '.join(without)}"


def test_every_contract_has_a_folder() -> None:
    assert {package.rsplit(".", 1)[-1] for package in PACKAGES} == set(catalog.CONTRACTS)


@pytest.fixture
def filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package `extra.filters`; its files are plug-ins of the kind `filter`."""
    folder = tmp_path / "extra" / "filters"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for module in [module for module in sys.modules if module.split(".")[0] == "extra"]:
        del sys.modules[module]
    catalog.find.cache_clear()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("", r"it needs `class Params\(.*it needs the function `drop_reasons\(signals, params\)`$"),
        (PARAMS, r"filters/odd.py is not a complete filter: it needs the function `drop_reasons\(signals, params\)`$"),
        (DROP_REASONS, r"it needs `class Params\(BaseModel, frozen=True, extra='forbid'\)`$"),
        ("class Params(BaseModel):\n    pass\n" + DROP_REASONS, r"needs `class Params\(BaseModel, frozen=True"),
        ("class Params:\n    pass\n" + DROP_REASONS, r"needs `class Params\(BaseModel, frozen=True"),
        (PARAMS + "def drop_reasons(params, signals): ...\n", r"function `drop_reasons\(signals, params\)`$"),
        (PARAMS + "def drop_reasons(signals, params, more): ...\n", r"function `drop_reasons\(signals, params\)`$"),
        (PARAMS + "drop_reasons = {}\n", r"function `drop_reasons\(signals, params\)`$"),
        (PARAMS + DROP_REASONS + MEASURE_TEXTS, r"function `drop_reasons\(signals, params, text_measurements\)`$"),
        (PARAMS + DROP_REASONS + "def edit_text(params): ...\n", r"function `edit_text\(text, params\)`$"),
    ],
)
def test_an_incomplete_file_is_refused_with_what_is_missing(filters: Path, code: str, problem: str) -> None:
    (filters / "odd.py").write_text("from pydantic import BaseModel\n\n" + code)
    with pytest.raises(BadParams, match=problem):
        catalog.find("extra.filters", "odd")


@pytest.mark.parametrize(
    "code",
    [
        DROP_REASONS,
        "def drop_reasons(signals, params, threshold=3): ...\n",
        MEASURE_TEXTS + "def drop_reasons(signals, params, text_measurements): ...\n",
        MEASURE_TEXTS
        + "def measure_metadata(metadata, params): ...\n"
        + "def drop_reasons(signals, params, text_measurements, metadata_measurements=None): ...\n",
        DROP_REASONS + "def default_params(languages): ...\n",
    ],
)
def test_a_complete_file_is_found(filters: Path, code: str) -> None:
    (filters / "plain.py").write_text("from pydantic import BaseModel\n\n" + PARAMS + code)
    assert catalog.find("extra.filters", "plain").Params
