"""What a round has changed: the new policy beside that of its start, on the same held-out prompts; its gate.

A reward model is wrong about answers that differ from those it was trained on. So a round watches over-optimization
(Gao 2022, arXiv:2210.10760): the score of the reward model rises while the gold reward falls, or the KL to the first
model grows beyond a limit.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks import gold, models
from tasks.answers import log_probabilities, reward_scores
from tasks.causal import attention
from tasks.chat_templates import ChatTemplate, end_ids
from tasks.errors import NothingLeft
from tasks.generation import generate
from tasks.pairs import Prompts, read_pairs_if_any, read_prompts
from tasks.reports import MAX_OTHER_SHARE, NULL_SHARE, most_common_share

MIN_KL = 1e-5  # nats per answer; below it, two models are the same
MAX_STANDARD_ERRORS = 2.0  # a fall of gold by more is no chance


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one model to prompts: sequences of ids with their log-probabilities (sums, in nats), and texts.

    finished: whether each answer ended by itself; the others were cut off.
    """

    sequences: list[list[int]]
    prompt_lengths: list[int]
    log_probs: list[float]
    texts: list[str]
    finished: list[bool]


def answer(model: Any, tokenizer: Any, prompts: Prompts, max_new_tokens: int, seed: int) -> Answers:
    """Sample one answer to each prompt at temperature 1, always with the same random numbers."""
    with attention.packed(model):
        generated = generate(
            model, prompts.ids, max_new_tokens=max_new_tokens, end_ids=end_ids(tokenizer, model),
            pad_id=tokenizer.pad_token_id, generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
    sequences = [[*map(int, ids), *tokens] for ids, tokens in zip(prompts.ids, generated.answers, strict=True)]
    sums = [float(values.sum()) for values in generated.log_probs]
    texts = ChatTemplate.of(tokenizer).texts(generated.answers)
    return Answers(sequences, [len(ids) for ids in prompts.ids], sums, texts, generated.finished)


def measure(
    folders: Mapping[str, Path], tokens: Path, num_prompts: int, max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """Scores of the candidate beside the start of the round. folders: candidate, start, first and reward.

    tokens: the token files of the round. Means have the key of their model; gold_gain is a paired difference.
    """
    prompts = held_out_prompts(tokens, num_prompts)
    reward, _ = models.load_reward(folders["reward"])
    results: dict[str, Any] = {"num_prompts": len(prompts)}
    gold_by_model: dict[str, list[float]] = {}
    scores_by_model: dict[str, torch.Tensor] = {}
    for name in ("start", "candidate"):
        model, tokenizer = models.load_causal(folders[name])
        answers = answer(model, tokenizer, prompts, max_new_tokens, seed)
        scores_by_model[name] = reward_scores(reward, answers.sequences, pad_id=tokenizer.pad_token_id)
        results[f"score_{name}"] = _rounded(float(scores_by_model[name].mean()))
        gold_by_model[name] = [
            gold.gold(text, metadata)
            for text, metadata in zip(answers.texts, prompts.metadata, strict=True)
            if gold.verifiable(metadata)
        ]
        results[f"most_common_{name}"] = _rounded(most_common_share(answers.texts))
        if name == "candidate":
            for other in ("start", "first"):
                results[f"kl_to_{other}"] = _kl(folders[other], answers, tokenizer.pad_token_id)
            results["samples"] = [
                {"prompt": metadata.get("text", ""), "answer": text}
                for metadata, text in itertools.islice(zip(prompts.metadata, answers.texts, strict=True), 8)
            ]
            results |= _accuracy_on_votes(model, folders["start"], tokens, tokenizer.pad_token_id)
    margins = scores_by_model["candidate"] - scores_by_model["start"]
    results["win_rate"] = _rounded(float(((margins > 0).float() + 0.5 * (margins == 0).float()).mean()))
    if gold_by_model["start"]:
        results |= paired(gold_by_model["start"], gold_by_model["candidate"])
    return results


def held_out_prompts(tokens: Path, num_prompts: int | None) -> Prompts:
    """Evenly spaced prompts of the test split, or of the validation split if there are none."""
    for split in ("test", "validation"):
        try:
            return read_prompts(tokens / "prompts" / split, sources=None).evenly_spaced(num_prompts)
        except NothingLeft:
            continue
    raise NothingLeft(f"{tokens / 'prompts'} has no held-out prompt, so that a round cannot be evaluated.")


def single_turn(prompts: Prompts) -> Prompts:
    """The prompts with one message; of others, the metadata have only the last one."""
    kept = [i for i, metadata in enumerate(prompts.metadata) if metadata.get("turn", 1) == 1]
    return prompts.select(kept)


def paired(start: Sequence[float], candidate: Sequence[float]) -> dict[str, float]:
    """Mean gold of both, its gain, and the standard error of the paired difference."""
    differences = torch.tensor(candidate, dtype=torch.float64) - torch.tensor(start, dtype=torch.float64)
    error = float(differences.std() / math.sqrt(len(differences))) if len(differences) > 1 else 0.0
    return {
        "gold_start": _rounded(sum(start) / len(start)), "gold_candidate": _rounded(sum(candidate) / len(candidate)),
        "gold_gain": _rounded(float(differences.mean())), "gold_standard_error": _rounded(error),
    }  # fmt: skip


def gate(results: Mapping[str, Any], max_kl: float, earlier: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the candidate may not become the champion; empty if it may. earlier: the results of promoted rounds.

    If answers can be verified, gold decides; otherwise the win rate by the reward model must be above one half.
    """
    if abs(results.get("kl_to_start", math.inf)) < MIN_KL:
        return ["it answers as the model that the round began with: training has kept its weights"]
    reasons = []
    if "gold_gain" in results:
        limit = MAX_STANDARD_ERRORS * results["gold_standard_error"]
        if results["gold_gain"] < -limit:
            rises = results["score_candidate"] > results["score_start"]
            cause = "over-optimization: the score rises, but " if rises else ""
            reasons.append(f"{cause}gold falls by {-results['gold_gain']:.4g} (two standard errors: {limit:.4g})")
    elif results["win_rate"] <= 0.5:
        reasons.append(f"the reward model prefers the present champion (win rate {results['win_rate']:.4g})")
    elif results.get("most_common_candidate", 0.0) >= NULL_SHARE and results["most_common_start"] <= MAX_OTHER_SHARE:
        share = results["most_common_candidate"]
        reasons.append(f"{share:.0%} of its answers are the same text, so that their score says nothing")
    if results["kl_to_first"] > max_kl:
        reasons.append(f"the KL to the first model is {results['kl_to_first']:.4g} nats per answer (limit {max_kl:g})")
    best = max((one["gold_candidate"] for one in earlier if "gold_candidate" in one), default=None)
    if best is not None and results.get("gold_candidate", best) < best - 2 * MAX_STANDARD_ERRORS * results.get(
        "gold_standard_error", 0.0
    ):
        reasons.append(f"gold {results['gold_candidate']:.4g} is below {best:.4g} of an earlier round")
    return reasons


def uncertain_prompts(folders: Mapping[str, Path], tokens: Path, count: int, max_new_tokens: int) -> list[str]:
    """Prompts to rank next, the most uncertain first: two answers of the candidate whose scores differ least.

    The uncertainty is the entropy of the preference that the reward model predicts, 0 for two equal answers. The
    prompts are those for training: held-out ones stay for measurements.
    """
    prompts = single_turn(read_prompts(tokens / "prompts/train", sources=None)).evenly_spaced(count)
    model, tokenizer = models.load_causal(folders["candidate"])
    reward, _ = models.load_reward(folders["reward"])
    pairs = [answer(model, tokenizer, prompts, max_new_tokens, seed) for seed in (1, 2)]
    first, second = (reward_scores(reward, one.sequences, pad_id=tokenizer.pad_token_id) for one in pairs)
    p = torch.sigmoid(first - second)
    entropy = torch.nn.functional.binary_cross_entropy(p, p, reduction="none")
    differs = torch.tensor([a != b for a, b in zip(pairs[0].texts, pairs[1].texts, strict=True)])
    order = torch.argsort(torch.where(differs, entropy, torch.zeros_like(entropy)), descending=True, stable=True)
    return list(dict.fromkeys(str(prompts.metadata[int(i)].get("text", "")) for i in order))


def _kl(folder: Path, answers: Answers, pad_id: int) -> float:
    """The mean over answers of log p(candidate) - log p(other): the estimator k1, in nats per answer."""
    other, _ = models.load_causal(folder)
    with attention.packed(other):
        reference = log_probabilities(other, answers.sequences, answers.prompt_lengths, pad_id=pad_id)
    differences = [p - float(q.sum()) for p, q in zip(answers.log_probs, reference, strict=True)]
    return _rounded(sum(differences) / len(differences))


def _accuracy_on_votes(model: Any, start: Path, tokens: Path, pad_id: int) -> dict[str, float]:
    """The share of held-out votes of the round for whose answer the policy has raised the probability more."""
    pairs = read_pairs_if_any(tokens / "preferences/validation")
    if pairs is None:
        return {}
    other, _ = models.load_causal(start)
    sums = []
    for one in (model, other):
        sides = []
        for side in ("chosen", "rejected"):
            sequences = [pairs.sequence(i, side) for i in range(len(pairs))]
            with attention.packed(one):
                values = log_probabilities(one, sequences, [len(ids) for ids in pairs.prompts], pad_id=pad_id)
            sides.append(torch.stack([value.sum() for value in values]))
        sums.append(sides[0] - sides[1])
    return {"vote_accuracy": _rounded(float((sums[0] > sums[1]).float().mean())), "num_held_out_votes": len(pairs)}


def _rounded(value: float) -> float:
    return round(value, 6)
