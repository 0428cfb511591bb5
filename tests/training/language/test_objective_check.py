"""Encoders and encoder-decoders are checked before they are trained, too."""

import pytest
import torch

from tasks.causal import attention
from tasks.errors import BadModel
from tasks.models import Objective
from tasks.training.language import objective_check, spans
from tests.training.models import small_model


@pytest.mark.parametrize(("kind", "objective"), [("bert", "masked"), ("modernbert", "masked"), ("t5", "span")])
def test_the_kinds_that_can_be_made_pass(kind: str, objective: Objective) -> None:
    objective_check.check(small_model(kind), objective, [0, 1, 2])


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_an_encoder_whose_documents_see_each_other_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(positions: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(positions), 1, positions.shape[1], positions.shape[1], dtype=torch.bool)

    monkeypatch.setattr(attention, "same_document_mask", everything)
    with pytest.raises(BadModel, match="logits of documents in one row differ by"):
        objective_check.check(small_model(kind, initial_std=0.3), "masked", [0, 1, 2])


def test_an_encoder_decoder_with_another_scale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "scaled_hidden", lambda model, batch: 3 * spans.decoder_hidden(model, batch))
    with pytest.raises(BadModel, match="differ by"):
        objective_check.check(small_model("t5"), "span", [0, 1, 2])


def test_a_model_without_the_parts_that_are_needed_is_refused() -> None:
    with pytest.raises(BadModel, match="cannot be computed: AttributeError"):
        objective_check.check(small_model("llama"), "masked", [0, 1, 2])
