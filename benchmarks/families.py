"""Tiny models of 60 real families through the code of the stages, compared with transformers' own eager forward pass.

    make bench NAME=families            # all
    .venv/bin/python -m benchmarks.families gemma-2 bloom

The oracle reads one document at a time with a model that plain transformers has loaded, without padding, packing or a
cache. Columns: packing (log-probabilities in packed rows), loss (the loss of pretrain and sft, and its gradients),
log_probabilities, pairs (both orders of two answers, as dpo reads them), generation, reward (scores of both orders, and
after saving), evaluation (nats per token), lora (the merged model), saved (the folder in plain transformers).

A family is `right` if every column is; `refused` if a column ends with an error for users and no column is wrong.
"""

import argparse
import json
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.family_case import END, LENGTHS, PAD, ROW_LENGTH, Case, tokenizer
from benchmarks.family_configs import FAMILIES

PROCESSES = 2
TOLERANCE = 1e-3  # nats, and scores
GRADIENT_TOLERANCE = 1e-3  # of the largest element of the gradient of a tensor
PROMPTS = (12, 4, 7, 7)  # lengths
NEW_TOKENS = 8


def main() -> None:
    """Print one line per family on stderr, and one line of JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*FAMILIES, []], metavar="FAMILY", help=" ".join(FAMILIES))
    names = parser.parse_args().names or list(FAMILIES)
    import torch  # in the parent, so that every child starts with it
    import transformers  # noqa: F401

    import tasks.causal.remembered
    import tasks.evaluation.scoring
    import tasks.training.stages.reward
    import tasks.training.stages.sft  # noqa: F401

    torch.set_num_threads(1)
    with multiprocessing.get_context("fork").Pool(PROCESSES, maxtasksperchild=1) as pool:
        results = dict(pool.imap(measure, names, chunksize=1))
    verdicts = {name: verdict(list(columns.values())) for name, columns in results.items()}
    counts = {kind: sum(verdict == kind for verdict in verdicts.values()) for kind in VERDICTS}
    refused = {name: reasons(results[name]) for name, kind in verdicts.items() if kind != "right"}
    print(json.dumps({"families": len(names), **counts, "not_right": refused}, ensure_ascii=False))


VERDICTS = ("right", "refused", "wrong", "crashed")


def verdict(outcomes: Sequence[str]) -> str:
    """The worst outcome of the columns of a family."""
    return max((outcome.partition(":")[0] for outcome in outcomes), key=VERDICTS.index)


def reasons(columns: dict[str, str]) -> dict[str, str]:
    """The columns that are not right, with what happened."""
    return {name: outcome for name, outcome in columns.items() if outcome != "right"}


def measure(name: str) -> tuple[str, dict[str, str]]:
    """The outcome of every column of one family; run in a process of its own."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        case = Case(name, Path(folder))
        columns = {column: outcome(check, case) for column, check in COLUMNS.items()}
    shown = " ".join(f"{column}={text.partition(':')[0]}" for column, text in columns.items() if text != "right")
    print(f"{name:20s} {time.monotonic() - start:5.1f} s  {shown or 'right'}", file=sys.stderr, flush=True)
    for note in sorted(case.notes):
        print(f"    {note}", file=sys.stderr, flush=True)
    for column, text in reasons(columns).items():
        print(f"    {column}: {text}", file=sys.stderr, flush=True)
    return name, columns


def outcome(check: Callable[[Case], float], case: Case) -> str:
    """right, or wrong, refused or crashed with what happened."""
    from tasks.errors import UserError

    try:
        error = check(case)
    except UserError as refusal:
        return f"refused: {refusal}"
    except Exception as failure:
        place = traceback.extract_tb(failure.__traceback__)[-1]
        text = str(failure).strip().splitlines() or [""]
        return f"crashed: {type(failure).__name__} at {Path(place.filename).name}:{place.lineno}: {text[0][:200]}"
    return "right" if error <= TOLERANCE else f"wrong: by {error:.3g}"


def packing(case: Case) -> float:
    """log p of every target of packed rows."""
    import torch

    from tasks.answers import answer_logits, token_log_probs
    from tasks.causal import attention
    from tasks.causal.backbone import last_hidden

    model = case.ours(packing="auto", loss="auto")
    errors, expected = [], [case.log_probs(piece) for piece in case.pieces() if len(piece) > 1]
    with torch.no_grad(), attention.packed(model):
        for batch in case.rows().once():
            hidden = last_hidden(model, batch.ids, batch.positions)
            is_target = batch.targets != -100
            errors.append(token_log_probs(answer_logits(model, hidden[is_target]), batch.targets[is_target]))
    return float((torch.cat(errors) - torch.cat(expected)).abs().max())


def loss(case: Case) -> float:
    """The mean loss of packed rows and its gradients."""
    import torch

    from tasks.causal import attention
    from tasks.training.language.next_token import NextToken

    model, oracle = case.ours(packing="auto", loss="auto"), case.oracle()
    log_probs = []
    for piece in (piece for piece in case.pieces() if len(piece) > 1):
        log_probs.append(case.log_probs(piece, oracle))
    expected = -torch.cat(log_probs).mean()
    expected.backward()
    work = NextToken(model, case.rows(), None, None)
    with attention.packed(model):
        (batch,) = case.rows().once()
        value, _ = work.loss(batch)
        value.backward()
    error = abs(float(value) - float(expected))
    return max(error, gradient_error(model, oracle))


def gradient_error(model: Any, oracle: Any) -> float:
    """The largest difference of two gradients, as a multiple of TOLERANCE where it is GRADIENT_TOLERANCE.

    It is relative to the largest element of the gradient of the tensor. A gradient that would be 0 without rounding,
    such as that of a bias before softmax, is compared with the largest of all.
    """
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = {name: parameter.grad for name, parameter in oracle.named_parameters() if parameter.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    error = 0.0
    for name, gradient in expected.items():
        actual = gradients[name] if gradients[name] is not None else 0 * gradient
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        error = max(error, float((actual - gradient).abs().max()) / scale)
    return error * TOLERANCE / GRADIENT_TOLERANCE


def log_probabilities(case: Case) -> float:
    """log p of answer tokens in padded batches."""
    import torch

    from tasks import answers
    from tasks.causal import attention

    starts = [3, 20, 2, 1, 5, 10]
    model = case.ours(pairs="auto")
    with attention.packed(model):
        actual = answers.log_probabilities(model, case.documents, starts, pad_id=PAD)
    expected = [case.log_probs(ids)[start - 1 :] for ids, start in zip(case.documents, starts, strict=True)]
    return float((torch.cat(actual) - torch.cat(expected)).abs().max())


def pairs(case: Case) -> float:
    """The log-probabilities of two answers to one prompt in both orders, and their gradients."""
    import torch

    from tasks.answers import answer_logits, answer_states, token_log_probs
    from tasks.causal import attention
    from tasks.causal.shared_prompts import collate_answers

    model, oracle = case.ours(pairs="auto"), case.oracle()
    prompts = case.documents[:2]
    expected = []
    for prompt in prompts:
        for order in (case.answers, case.answers[::-1]):
            expected += [case.log_probs(prompt + answer, oracle)[len(prompt) - 1 :] for answer in order]
    torch.cat(expected).sum().backward()
    orders = [case.answers, case.answers[::-1]] * 2
    with attention.packed(model):
        batch = collate_answers(model, [prompt for prompt in prompts for _ in range(2)], orders, PAD)
        actual = token_log_probs(answer_logits(model, answer_states(model, batch)), batch.targets)
        actual.sum().backward()
    error = float((actual - torch.cat(expected)).abs().max())
    return max(error, gradient_error(model, oracle))


def generation(case: Case) -> float:
    """Greedy answers to prompts of several lengths in one batch, and their log-probabilities."""
    import torch
    from transformers import GenerationConfig

    from tasks.causal import attention
    from tasks.generation import generate

    prompts = [document[:length] for document, length in zip(case.documents[1:], PROMPTS, strict=False)]
    settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "end_ids": [END], "pad_id": PAD, "temperature": 0.0}
    model = case.ours(generation="auto")
    with attention.packed(model):
        generated = generate(model, prompts, **settings)
    own = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=END, pad_token_id=PAD)
    error = 0.0
    for prompt, answer, log_probs in zip(prompts, generated.answers, generated.log_probs, strict=True):
        ids = torch.tensor([prompt])
        expected = case.oracle().generate(ids, attention_mask=torch.ones_like(ids), generation_config=own)
        if expected[0, len(prompt) :].tolist() != answer:
            return float("inf")
        own_log_probs = case.log_probs(prompt + answer)[len(prompt) - 1 :]
        error = max(error, float((log_probs - own_log_probs).abs().max()))
    return error


def reward(case: Case) -> float:
    """The scores of both answers to each prompt in both orders, and of the saved reward model."""
    import torch

    from tasks import answers, models
    from tasks.causal import attention
    from tasks.causal.backbone import backbone_of
    from tasks.causal.self_check import AS_LOADED
    from tasks.causal.shared_prompts import collate_answers
    from tasks.training.stages.reward import with_head

    model = case.checked(with_head(models.load_causal(case.folder / "base")[0], 0).eval(), pairs="auto")
    prompts = case.documents[:2]
    sequences = [prompt + answer for prompt in prompts for answer in case.answers]
    trunk = case.oracle()
    trunk = next(child for child in trunk.children() if child is trunk.base_model or hasattr(child, "config"))
    states = [trunk(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences]
    layers = [child for child in model.children() if child is not backbone_of(model)]
    expected = torch.stack([torch.nn.Sequential(*layers).eval()(state)[0] for state in states])
    with torch.no_grad(), attention.packed(model):
        errors = []
        for order in (1, -1):
            batch = collate_answers(model, prompts, [case.answers[::order]] * 2, PAD)
            scores = answers.answer_rewards(model, batch).view(2, 2)
            errors.append((scores[:, ::order] if order == 1 else scores.flip(1)).flatten() - expected)
    models.save(case.folder / "reward", model.eval(), tokenizer(), {"stage": "reward"})
    loaded = case.checked(models.load_reward(case.folder / "reward")[0], True, attentions=AS_LOADED)
    errors.append(answers.reward_scores(loaded, sequences, pad_id=PAD) - expected)
    return float(torch.cat(errors).abs().max())


def evaluation(case: Case) -> float:
    """Nats per token of the rows of a stream."""
    from tasks.causal.self_check import AS_LOADED
    from tasks.evaluation.scoring import stream_nats

    stream = case.rows().stream
    model = case.ours(packing="auto", keep_attention=True, attentions=AS_LOADED)
    nats = np.concatenate(stream_nats(model, stream, [0, 1], ROW_LENGTH, 2))
    is_target = np.concatenate([stream.row(row, ROW_LENGTH)[1][1:] > 0 for row in (0, 1)])
    expected = np.concatenate([-case.log_probs(p).detach().numpy() for p in case.pieces() if len(p) > 1])
    return float(np.abs(nats[is_target] - expected).max())


def lora(case: Case) -> float:
    """The merged folder of a trained adapter in plain transformers, compared with the model that was trained."""
    import torch

    from tasks import answers, models
    from tasks.causal import attention
    from tasks.training import adapters

    section = adapters.AdapterParams.model_validate({"name": "lora", "rank": 4})
    model = case.checked(adapters.attach(models.load_causal(case.folder / "base")[0], section, 0), packing="auto")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.normal_(std=0.1)
    model.eval()
    with attention.packed(model):
        trained = answers.log_probabilities(model, case.documents, [1] * len(LENGTHS), pad_id=PAD)
    models.save(case.folder / "merged", model, tokenizer(), {"stage": "sft"})
    merged = [case.log_probs(ids, case.oracle("merged")) for ids in case.documents]
    plain = [case.log_probs(ids) for ids in case.documents]
    if float((torch.cat(merged) - torch.cat(plain)).abs().max()) < 10 * TOLERANCE:
        return float("nan")  # the adapter has no effect
    return float((torch.cat(trained) - torch.cat(merged)).abs().max())


def saved(case: Case) -> float:
    """The folder that a stage saves, in plain transformers."""
    import torch

    from tasks import models

    model = models.load_causal(case.folder / "base")[0]
    models.save(case.folder / "saved", model, tokenizer(), {"stage": "sft"})
    again = [case.log_probs(ids, case.oracle("saved")) for ids in case.documents]
    plain = [case.log_probs(ids) for ids in case.documents]
    return float((torch.cat(again) - torch.cat(plain)).abs().max())


COLUMNS: dict[str, Callable[[Case], float]] = {
    "packing": packing,
    "loss": loss,
    "log_probabilities": log_probabilities,
    "pairs": pairs,
    "generation": generation,
    "reward": reward,
    "evaluation": evaluation,
    "lora": lora,
    "saved": saved,
}

if __name__ == "__main__":
    main()
