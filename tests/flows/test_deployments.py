"""Each deployment has typed and described parameters, and values that its flow accepts; wrong ones are refused."""

import importlib
from typing import Any

import pytest
import yaml
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from tests.flows.project import ROOT

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def flow_of(deployment: dict[str, Any]) -> Any:
    path, name = deployment["entrypoint"].split(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_parameters_are_described_and_valid(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    flow.validate_parameters(deployment["parameters"])
    for name, body in parameter_schema(flow.fn).properties.items():
        assert body.get("description"), name
        assert {"type", "anyOf", "enum"} & set(body), name
    assert deployment["concurrency_limit"]["limit"] == 1


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        ("pipeline", {"to": "../etc"}),
        ("pipeline", {"force": "perhaps"}),
        ("deliveries", {"min_new_share": 1.5}),
        ("deliveries", {"training": "sometimes"}),
        ("deliveries", {"min_age": -1}),
    ],
)
def test_parameters_out_of_bounds_are_refused(flow: str, parameters: dict[str, Any]) -> None:
    module = importlib.import_module(f"flows.{flow}")
    with pytest.raises(ParameterTypeError):
        getattr(module, flow).validate_parameters(parameters)
