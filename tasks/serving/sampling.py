"""Draw the next token of several answers at once, each with its own settings."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.generation import nucleus, sample
from tasks.serving.requests import Request, TokenLogProb


class Sampler:
    """The settings of the answers that are decoded together, as tensors that stay while the batch stays."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = list(requests)
        all_settings = [request.sampling for request in requests]
        # An answer without a temperature gets the most probable token; 1 is only there to divide by.
        self._is_greedy = [settings.temperature == 0 for settings in all_settings]
        self._temperatures = torch.tensor([[settings.temperature or 1.0] for settings in all_settings])
        self._top_p = torch.tensor([[settings.top_p] for settings in all_settings])
        self._min_p = torch.tensor([[settings.min_p] for settings in all_settings])
        self._top_k = [settings.top_k for settings in all_settings]
        self._with_top_p = any(settings.top_p < 1 for settings in all_settings)
        self._with_min_p = any(settings.min_p > 0 for settings in all_settings)
        self._changed = [
            row
            for row, settings in enumerate(all_settings)
            if settings.has_penalties or settings.logit_bias or settings.min_tokens
        ]
        self._wants_log_probs = any(request.num_top is not None for request in requests)

    def draw(self, logits: Tensor) -> list[TokenLogProb]:
        """Draw one token for each row of `logits` [rows, vocab_size].

        Log-probabilities are those of the model at temperature 1, before penalties and bias; 0.0 if nobody asked.
        """
        logits = logits.float()
        adjusted = self._adjusted(logits) if self._changed else logits
        tokens = adjusted.argmax(-1)
        if not all(self._is_greedy):
            is_greedy = torch.tensor(self._is_greedy, device=logits.device)
            tokens = torch.where(is_greedy, tokens, self._sampled(adjusted))
        chosen = tokens.tolist()
        if not self._wants_log_probs:
            return [TokenLogProb(token, 0.0) for token in chosen]
        log_p = F.log_softmax(logits, dim=-1)
        values = log_p.gather(1, tokens[:, None]).squeeze(1).tolist()
        largest = max(request.num_top or 0 for request in self._requests)
        top = most_probable(log_p, largest)
        return [
            TokenLogProb(token, value, row[: request.num_top or 0])
            for token, value, row, request in zip(chosen, values, top, self._requests, strict=True)
        ]

    def _sampled(self, logits: Tensor) -> Tensor:
        scaled = logits / self._temperatures.to(logits.device)
        for row, k in enumerate(self._top_k):
            if 0 < k < scaled.shape[1]:
                smallest = scaled[row].topk(k).values[-1]
                scaled[row] = scaled[row].masked_fill(scaled[row] < smallest, -torch.inf)
        if self._with_min_p:
            p = scaled.softmax(-1)
            scaled = scaled.masked_fill(p < self._min_p.to(p.device) * p.amax(-1, keepdim=True), -torch.inf)
        if self._with_top_p:
            kept = nucleus(scaled.softmax(-1), self._top_p.to(scaled.device))  # type: ignore[arg-type]  # one per row
            scaled = scaled.masked_fill(kept == 0, -torch.inf)
        uniform = torch.tensor([request.random_numbers.random() for request in self._requests])
        return sample(scaled, uniform.to(scaled.device), 1.0, 1.0)[0]

    def _adjusted(self, logits: Tensor) -> Tensor:
        adjusted = logits.clone()
        for row in self._changed:
            request, settings = self._requests[row], self._requests[row].sampling
            if settings.has_penalties:
                _penalize(adjusted[row], request)
            if settings.logit_bias:
                index = torch.tensor(list(settings.logit_bias), device=logits.device)
                adjusted[row, index] += torch.tensor(list(settings.logit_bias.values()), device=logits.device)
            if len(request.answer) < settings.min_tokens:
                adjusted[row, list(request.end_ids)] = -torch.inf
        return adjusted


def _penalize(logits: Tensor, request: Request) -> None:
    """Apply the penalties of a request to its row of logits [vocab_size], in place."""
    settings = request.sampling
    if settings.repetition_penalty != 1:  # CTRL (arXiv:1909.05858), prompt and answer
        index = torch.tensor(sorted({*request.ids, *request.answer}), device=logits.device)
        values = logits[index]
        factor = settings.repetition_penalty
        logits[index] = torch.where(values > 0, values / factor, values * factor)
    counts = Counter(request.answer)
    if counts and (settings.frequency_penalty or settings.presence_penalty):
        index = torch.tensor(list(counts), device=logits.device)
        numbers = torch.tensor(list(counts.values()), device=logits.device, dtype=logits.dtype)
        logits[index] -= numbers * settings.frequency_penalty + settings.presence_penalty


def most_probable(log_p: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The `count` most probable tokens of each row of `log_p` [rows, vocab_size], the most probable first."""
    if not count:
        return [[] for _ in range(len(log_p))]
    values, tokens = log_p.topk(min(count, log_p.shape[1]), dim=-1)
    return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), values.tolist(), strict=True)]


def prompt_log_probs(logits: Tensor, targets: Sequence[int], count: int) -> list[TokenLogProb]:
    """The log-probability of each of `targets`, which the rows of `logits` [targets, vocab_size] predict."""
    log_p = F.log_softmax(logits.float(), dim=-1)
    index = torch.tensor(list(targets), device=log_p.device)
    values = log_p.gather(1, index[:, None]).squeeze(1).tolist()
    columns = zip(targets, values, most_probable(log_p, count), strict=True)
    return [TokenLogProb(int(token), value, top) for token, value, top in columns]
