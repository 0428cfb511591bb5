"""The class of a reward model: sequence classification with one label, for every family of causal models."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

SUFFIX = "ForSequenceClassification"


def reward_class(config: Any) -> Any:
    """The class of transformers for reward models with `config`, or one that is made here if the family has none."""
    from transformers import AutoModelForSequenceClassification

    mapping = AutoModelForSequenceClassification._model_mapping
    config_class: Any = type(config)
    return mapping[config_class] if config_class in mapping else _made_class(config_class)


@cache
def _made_class(config_class: Any) -> Any:
    """The trunk of a family under a linear map to one score, which is read at the last token that is not padding.

    Its folders have the layout of transformers' GenericForSequenceClassification: `model` and `score`.
    """
    from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast

    causal = AutoModelForCausalLM._model_mapping[config_class]
    # The class of the family between PreTrainedModel and its causal model knows how weights are initialized.
    parent = next(kind for kind in causal.__mro__ if PreTrainedModel in kind.__bases__)

    def __init__(self: Any, config: Any) -> None:  # noqa: N807 - a method of the class below
        parent.__init__(self, config)
        self.model = AutoModel.from_config(config)
        self.score = nn.Linear(config.get_text_config().hidden_size, 1, bias=False)
        self.post_init()

    def forward(self: Any, input_ids: Tensor, **inputs: Any) -> Any:
        scores = self.score(self.model(input_ids=input_ids, **inputs)[0])
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        pad_id = getattr(self.config.get_text_config(), "pad_token_id", None)
        last = (place * (input_ids != (-1 if pad_id is None else pad_id))).argmax(-1)
        return SequenceClassifierOutputWithPast(logits=scores[torch.arange(len(scores)), last])

    name = causal.__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + SUFFIX
    body = {
        "__init__": __init__,
        "forward": forward,
        "base_model_prefix": "model",
        "config_class": config_class,
        "_tied_weights_keys": None,
    }
    return type(name, (parent,), {**body, "__module__": causal.__module__})
