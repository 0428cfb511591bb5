"""Tokens of a chat template that a base has never read begin with the mean of the other embeddings."""

from typing import Any

import numpy as np
import pytest
import torch

from tasks import models
from tasks.causal.self_check import Needs
from tasks.tokens import Stream
from tasks.training import adapters
from tasks.training.adapters import AdapterParams
from tasks.training.language import template_tokens
from tasks.training.language.rows import PackedRows
from tests.training import tiny

USER, ASSISTANT, END = 3, 4, 5
CPU = torch.device("cpu")


def rows() -> PackedRows:
    """Four chats in which the answer to a letter is the next one: <document> <user> a <end> <assistant> b <end>."""
    chats = [[*tiny.prompt(x), *tiny.answer(chr(ord(x) + 1))] for x in "abcd"]
    ids = np.array([token for chat in chats for token in chat], np.uint16)
    positions = np.concatenate([np.arange(len(chat)) for chat in chats]).astype(np.uint32)
    mask = np.concatenate([[0] * 5 + [1] * 2 for _ in chats]).astype(np.uint8)
    return PackedRows(Stream(ids, positions, mask), 7, 4, 4, 0, 0)


def untied_model() -> Any:
    """A model with a head of its own, so that a row of the head decides how probable a token is."""
    model = tiny.model()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return model


def never(model: Any, token: int) -> None:
    """Make a token as improbable as one that a base has never seen: its row of the head opposes all hidden states."""
    states = list[torch.Tensor]()
    hook = model.lm_head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    with torch.no_grad():
        model(rows().batches(0)[0].ids)
        hook.remove()
        direction = states[0].flatten(0, 1).mean(0)
        model.lm_head.weight[token] = -20 * direction / direction.norm()


def test_an_end_token_that_the_base_never_predicts_begins_with_the_mean() -> None:
    """The mean of the rows of the 15 other tokens that chats of this kind do not contain as roles or ends."""
    model, tokenizer = untied_model(), tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    never(model, END)
    others = [i for i in range(len(tiny.WORDS)) if i not in (USER, ASSISTANT, END)]
    expected = model.lm_head.weight[others].mean(0).detach().clone()
    notes = template_tokens.begin_with_mean(model, tokenizer, rows(), Needs(packing="auto", loss="auto"), CPU)
    torch.testing.assert_close(model.lm_head.weight[END].detach(), expected)
    assert END in models.new_token_ids(model)
    assert "does not know" in notes[0]
    assert "<|end|>" in notes[0]


def test_lora_trains_the_rows_of_these_tokens() -> None:
    model, tokenizer = untied_model(), tiny.tokenizer()
    never(model, END)
    template_tokens.begin_with_mean(model, tokenizer, rows(), Needs(packing="auto", loss="auto"), CPU)
    adapted = adapters.attach(model, AdapterParams.model_validate({"name": "lora", "rank": 2}), 0)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad and "trainable_tokens" in name]
    assert any("lm_head" in name for name in trained)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler")
def test_tokens_that_the_base_knows_stay_as_they_are() -> None:
    """After some steps of training on these chats, every row is better than the mean."""
    model, tokenizer = untied_model().train(), tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    batch = rows().batches(0)[0]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        model(batch.ids, labels=batch.ids).loss.backward()
        optimizer.step()
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not template_tokens.begin_with_mean(model, tokenizer, rows(), Needs(packing="auto", loss="auto"), CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not models.new_token_ids(model)
