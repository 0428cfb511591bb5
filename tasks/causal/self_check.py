"""The self-check: before a stage trains, scores or generates, its fast methods must give the model's own numbers.

Documents in one row, answers that share a prompt, padding, chunked losses and cached generation are equivalences that
hold for most models, but not for all. They are tried on some fifty random tokens with the very model of the stage, and
compared with its own eager forward pass on each text alone. `auto` selects a slower method where a fast one differs and
reports it; a method that was asked for and differs is an error. So no stage computes a number that is not the model's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tasks import peft
from tasks.answers import answer_logits, answer_rewards, answer_states, collate, evaluating, token_log_probs
from tasks.causal import attention, backbone, heads, methods, positions
from tasks.causal.losses import IGNORED, next_token_loss
from tasks.causal.masks import NAME
from tasks.causal.methods import Generation, Loss, Methods, Packing, Pairs
from tasks.causal.row_loss import row_loss
from tasks.causal.shared_prompts import collate_answers
from tasks.errors import BadModel, UserError
from tasks.generation import generate

PROMPT_LENGTH, ANSWER_LENGTHS, SECOND_PROMPT_LENGTH, NUM_NEW_TOKENS = 11, (6, 10), 5, 3
# Nats, or score. A method for which there is a slower one must be more exact than the slowest one: a difference in the
# short texts of the check can be larger in long texts.
TOLERANCE, LAST_TOLERANCE = 2e-4, 1e-3
QUANTIZED_TOLERANCE = 0.1  # the products of LLM.int8 depend on all rows of a batch
SHORT_WINDOW = 4  # of sliding windows during the check, so that some tokens lie outside
WINDOW_KEYS = ("sliding_window", "attention_chunk_size")
EAGER = "eager"
AS_LOADED = ("sdpa", NAME, EAGER)  # for models that are not trained: the attention of transformers first
SLOW = {"packing": "none", "loss": "model", "pairs": "separate", "generation": "model"}


@dataclass(frozen=True)
class Needs:
    """What a stage does with its model, by the methods that params ask for; None: it does no such thing.

    max_length: the largest number of tokens of a text or row, which matters for some rotary positions.
    attentions: implementations of attention in the order in which they are tried. states: whether the stage itself
    reads hidden states (a value head does).
    """

    packing: Packing | None = None
    loss: Loss | None = None
    pairs: Pairs | None = None
    generation: Generation | None = None
    max_length: int | None = None
    attentions: tuple[str, ...] = (NAME, EAGER)
    states: bool = False


@dataclass(frozen=True)
class Result:
    """The methods of a model, and one sentence for each that is not the fast one."""

    methods: Methods
    notes: tuple[str, ...] = ()


def measure(model: Any, needs: Needs, special_ids: Sequence[int], pad_id: int) -> Result:
    """Find the methods with which `model` gives its own numbers. Raises BadModel if `needs` cannot be met.

    special_ids: tokens that do not occur in ordinary text. `model` is a causal model or a reward model.
    """
    check = _Check(model, needs, special_ids, pad_id)
    before = methods.of(model), peft.base_model(model).config._attn_implementation
    with torch.no_grad(), evaluating(model), _nonzero_weights(model), _short_windows(model):
        try:
            return check.result()
        finally:
            methods.choose(model, before[0])
            attention.set_implementation(peft.base_model(model), before[1])


class _Check:
    """The texts of one check and the model's own numbers for them."""

    def __init__(self, model: Any, needs: Needs, special_ids: Sequence[int], pad_id: int) -> None:
        self.model, self.needs, self.pad_id, self.notes = model, needs, pad_id, list[str]()
        self.base = peft.base_model(model)
        self.row_hidden: Tensor | None = None  # of the check of packed rows
        self.is_reward = self.base.get_output_embeddings() is None
        self.is_quantized = any(type(p).__name__ in peft.QUANTIZED_WEIGHTS for p in model.parameters())
        ids = random_ids(self.base, special_ids, PROMPT_LENGTH + sum(ANSWER_LENGTHS))
        self.prompt, *self.answers = (part.tolist() for part in ids.split([PROMPT_LENGTH, *ANSWER_LENGTHS]))
        self.texts = [self.prompt + answer for answer in self.answers]

    def result(self) -> Result:
        """Try the methods, from the fast to the slow ones."""
        self._set(Methods(attention=EAGER))
        self.own = [self._own(text) for text in self.texts]
        if not torch.cat(self.own).isfinite().all():
            raise BadModel(_not_finite(self.model))
        chosen = self._choose_attention()
        if chosen.loss == "model":
            if self.needs.generation is not None:
                chosen = self._choose_generation(chosen)
            return Result(chosen, tuple(self.notes))
        chosen = positions.restricted(self.base.config, chosen, self.needs.max_length, self.notes)
        for choose_method in (self._choose_packing, self._choose_loss, self._choose_pairs, self._choose_generation):
            chosen = choose_method(chosen)
        return Result(chosen, tuple(self.notes))

    def _choose_attention(self) -> Methods:
        """The attention; if hidden states do not determine the logits, also the logits of the model itself."""
        what, allowed = "the numbers of texts in a padded batch", [Methods(attention=n) for n in self._attentions()]
        try:
            return self._first(what, None, self._scoring_error, allowed)
        except BadModel:
            if self.is_reward or not self._may_read_logits():
                raise
            slow = Methods(packing="none", loss="model", pairs="separate", generation="model")
            chunked = [] if self.needs.loss == "model" else allowed
            own = [replace(slow, attention=one.attention) for one in allowed]
            if self.needs.loss == "chunked":
                own = []
            return self._first(what, "loss", self._scoring_error, [*chunked, *own])

    def _may_read_logits(self) -> bool:
        """Whether the stage does nothing for which hidden states are needed, by its params or by itself."""
        fast = {"packing": "rows", "pairs": "shared", "generation": "cached"}
        return not self.needs.states and all(getattr(self.needs, key) != method for key, method in fast.items())

    def _attentions(self) -> tuple[str, ...]:
        """Without AttentionInterface, a model has only the attention that it was built with."""
        can_change = self.base._can_set_attn_implementation()
        return self.needs.attentions if can_change else (self.base.config._attn_implementation,)

    def _choose_packing(self, chosen: Methods) -> Methods:
        if self.needs.packing is None or self.is_reward:
            return chosen
        rows = [replace(chosen, packing="rows")]
        if chosen.attention != EAGER and self.base._can_set_attn_implementation():
            rows.append(replace(chosen, packing="rows", attention=EAGER))
        none = [replace(chosen, packing="none")]
        allowed = {"rows": rows, "none": none, "auto": rows + none}[self.needs.packing]
        if chosen.packing == "none" and self.needs.packing == "auto":  # decided by the kind of its positions
            allowed = none
        return self._first("log-probabilities in packed rows", "packing", self._packing_error, allowed)

    def _choose_loss(self, chosen: Methods) -> Methods:
        if self.needs.loss is None:
            return chosen
        chunked, whole = replace(chosen, loss="chunked"), replace(chosen, loss="model", packing="none")
        allowed = {"chunked": [chunked], "model": [whole], "auto": [chunked, whole]}[self.needs.loss]
        return self._first("the losses of chunks", "loss", self._loss_error, allowed)

    def _choose_pairs(self, chosen: Methods) -> Methods:
        if self.needs.pairs is None:
            return chosen
        shared, separate = replace(chosen, pairs="shared"), replace(chosen, pairs="separate")
        allowed = {"shared": [shared], "separate": [separate], "auto": [shared, separate]}[self.needs.pairs]
        if chosen.pairs == "separate" and self.needs.pairs == "auto":
            allowed = [separate]
        return self._first("the numbers of answers that share a prompt", "pairs", self._pairs_error, allowed)

    def _choose_generation(self, chosen: Methods) -> Methods:
        if self.needs.generation is None:
            return chosen
        cached, own = replace(chosen, generation="cached"), replace(chosen, generation="model")
        owns = [own, replace(own, one_prompt=True)]
        allowed = {"cached": [cached], "model": owns, "auto": [cached, *owns]}[self.needs.generation]
        if chosen.generation == "model" and self.needs.generation == "auto":
            allowed = owns
        return self._first("log-probabilities of generated answers", "generation", self._generation_error, allowed)

    def _first(
        self, what: str, setting: str | None, error_of: Callable[[], float], allowed: Sequence[Methods]
    ) -> Methods:
        """The first of the methods `allowed` with which the numbers of `what` are the model's own."""
        reasons: list[str] = []
        for candidate in allowed:
            try:
                self._set(candidate)
                error = error_of()
            except UserError as refusal:
                reasons.append(f"cannot be computed: {refusal}")
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as failure:
                text = (str(failure).splitlines() or [""])[0]
                reasons.append(f"cannot be computed: {type(failure).__name__}: {text}")
            else:
                most = LAST_TOLERANCE if candidate == allowed[-1] else TOLERANCE
                most = QUANTIZED_TOLERANCE if self.is_quantized else most
                if error <= most:
                    self._note(what, setting, candidate, allowed[0], reasons)
                    return candidate
                unit = "" if self.is_reward else " nats"
                reasons.append(
                    f"differ by {error:.2g}{unit} from the model's own on each text alone (allowed: {most:g})"
                )
        raise BadModel(self._message(what, setting, allowed, reasons))

    def _note(self, what: str, setting: str | None, chosen: Methods, fastest: Methods, reasons: Sequence[str]) -> None:
        if setting is not None and getattr(chosen, setting) != getattr(fastest, setting):
            self.notes.append(
                f"{setting}: {getattr(chosen, setting)} was selected, which is slower, because {what} "
                f"{'; '.join(dict.fromkeys(reasons))}"
            )

    def _message(self, what: str, setting: str | None, allowed: Sequence[Methods], reasons: Sequence[str]) -> str:
        advice = "There is no slower method that avoids this, so the model cannot be used here."
        if setting is not None and all(getattr(one, setting) != SLOW[setting] for one in allowed):
            advice = f"Set {setting}: {SLOW[setting]} or {setting}: auto in the section of the stage."
        return f"{type(self.base).__name__} failed the self-check: {what} {'; '.join(dict.fromkeys(reasons))}. {advice}"

    def _set(self, chosen: Methods) -> None:
        methods.choose(self.model, chosen)
        attention.set_implementation(self.base, chosen.attention)

    def _own(self, text: Sequence[int]) -> Tensor:
        """The model's own numbers for one text: the log-probability of each token but the first, or the score."""
        logits = self.model(input_ids=self._tensor([text])).logits
        if self.is_reward:
            score: Tensor = logits[0].float()
            return score
        # Both texts begin with the same prompt. `_generation_error` continues its first tokens.
        self.first_log_probs = logits[0, -len(text) + SECOND_PROMPT_LENGTH - 1].float().log_softmax(-1).cpu()
        return token_log_probs(logits[0, -len(text) : -1], self._tensor(text[1:]))

    def _tensor(self, ids: Any) -> Tensor:
        return torch.tensor(ids, device=next(self.model.parameters()).device)

    def _scoring_error(self) -> float:
        """Of the texts in one batch, the shorter one padded."""
        batch = collate(self.texts, [1] * len(self.texts), self.pad_id, self._tensor([0]).device)
        if self.is_reward:
            return _difference(answer_rewards(self.model, batch), torch.cat(self.own))
        log_probs = token_log_probs(answer_logits(self.model, answer_states(self.model, batch)), batch.targets)
        return _difference(log_probs, torch.cat(self.own))

    def _row(self) -> tuple[Tensor, Tensor, Tensor]:
        """ids, positions and targets of one row with both texts."""
        ids = self._tensor([[token for text in self.texts for token in text]])
        positions = torch.cat([torch.arange(len(text)) for text in self.texts])[None].to(ids.device)
        targets = torch.cat((ids[:, 1:], ids[:, :1]), 1)
        next_positions = torch.cat((positions[:, 1:], positions[:, :1]), 1)
        return ids, positions, targets.masked_fill(next_positions == 0, IGNORED)

    def _packing_error(self) -> float:
        ids, positions, targets = self._row()
        self.row_hidden = backbone.last_hidden(self.model, ids, positions)
        hidden = self.row_hidden[targets != IGNORED]
        return _difference(
            token_log_probs(heads.logits(self.model, hidden), targets[targets != IGNORED]), torch.cat(self.own)
        )

    def _loss_error(self) -> float:
        ids, positions, targets = self._row()
        if self.row_hidden is not None and methods.of(self.model).loss == "chunked":  # one pass less
            loss, _ = next_token_loss(self.row_hidden, heads.head(self.model), targets)
        else:
            loss, _ = row_loss(self.model, ids, positions, targets)
        return _difference(loss, -torch.cat(self.own).mean())

    def _pairs_error(self) -> float:
        """Of both answers to one prompt, in both orders."""
        orders = [self.answers, self.answers[::-1]]
        batch = collate_answers(self.model, [self.prompt] * 2, orders, self.pad_id)
        if self.is_reward:
            return _difference(answer_rewards(self.model, batch), torch.cat(self.own + self.own[::-1]))
        log_probs = token_log_probs(answer_logits(self.model, answer_states(self.model, batch)), batch.targets)
        of_answers = [log_probs_of_text[PROMPT_LENGTH - 1 :] for log_probs_of_text in self.own]
        return _difference(log_probs, torch.cat(of_answers + of_answers[::-1]))

    def _generation_error(self) -> float:
        """Of the most probable tokens after three prompts; they must be the most probable ones alone, too.

        The first prompt is longer than the others. The second answer ends with its first token, so that its row is
        removed from the batch; its numbers are known already.
        """
        beginning, other = self.texts[0][:SECOND_PROMPT_LENGTH], self.answers[1][:SECOND_PROMPT_LENGTH]
        prompts, chosen = [self.prompt, beginning, other], methods.of(self.model)
        first = int(self.first_log_probs.argmax())
        settings: dict[str, Any] = {"end_ids": [first], "pad_id": self.pad_id, "temperature": 0.0}
        generated = generate(self.model, prompts, max_new_tokens=NUM_NEW_TOKENS, **settings)
        error = 0.0
        attention.set_implementation(self.base, EAGER)
        for prompt, answer, log_probs in zip(prompts, generated.answers, generated.log_probs, strict=True):
            if prompt is beginning:
                table = self.first_log_probs[None]
            else:
                logits = self.model(input_ids=self._tensor([prompt + answer])).logits[0, -len(answer) - 1 : -1]
                table = logits.float().log_softmax(-1).cpu()
            if len(answer) != len(table):
                return float("inf")
            own = table.gather(1, torch.tensor(answer)[:, None])[:, 0]
            error = max(error, _difference(log_probs, own), _difference(own, table.max(-1).values))
        self._set(chosen)
        return error


def _not_finite(model: Any) -> str:
    """The message for a model whose own numbers are NaN or infinite."""
    names = [name for name, p in model.named_parameters() if p.is_floating_point() and not p.isfinite().all()]
    cause = f"NaN or infinite values are in {', '.join(names[:5])}" if names else "its weights are finite"
    return (
        f"the own forward pass of {type(peft.base_model(model)).__name__} gives NaN or infinite numbers; {cause}. "
        "Restore the folder, or choose another base."
    )


def _difference(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; of numbers above 1, the largest relative one. NaN counts as infinite."""
    difference = (actual.detach().float().cpu() - expected.detach().float().cpu()).abs()
    largest = float((difference / expected.detach().float().cpu().abs().clamp(min=1)).max())
    return largest if largest == largest else float("inf")


def random_ids(base: Any, special_ids: Sequence[int], count: int) -> Tensor:
    """Tokens of ordinary text, the same ones every time."""
    size = base.get_input_embeddings().weight.shape[0]
    ordinary = torch.tensor(sorted(set(range(min(size, 1 << 16))) - set(special_ids)) or list(range(size)))
    generator = torch.Generator().manual_seed(0)
    return ordinary[torch.randint(len(ordinary), (count,), generator=generator)]


@contextmanager
def _nonzero_weights(model: Any) -> Iterator[None]:
    """Fill matrices of zeros, such as those of a new adapter, within the block: nothing could be seen behind them."""
    generator = torch.Generator().manual_seed(0)
    zeros = [p for p in model.parameters() if p.ndim >= 2 and p.is_floating_point() and not p.any()]
    for parameter in zeros:
        values = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
        parameter.data.copy_(values)
    try:
        yield
    finally:
        for parameter in zeros:
            parameter.data.zero_()


@contextmanager
def _short_windows(model: Any) -> Iterator[None]:
    """Shorten sliding windows and chunks within the block, because the texts of the check are shorter than them."""
    base = peft.base_model(model)
    objects = {id(one): one for one in (base.config, base.config.get_text_config(), *base.modules())}.values()
    previous = [
        (one, key, value)
        for one in objects
        for key in WINDOW_KEYS
        if isinstance(value := vars(one).get(key), int) and value > SHORT_WINDOW
    ]
    for one, key, _ in previous:
        setattr(one, key, SHORT_WINDOW)
    try:
        yield
    finally:
        for one, key, value in previous:
            setattr(one, key, value)
