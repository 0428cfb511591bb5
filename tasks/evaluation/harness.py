"""A model as lm-evaluation-harness sees it (the extra lm-eval), scored by our own scorer (continuations.py).

The harness builds the requests of a task and aggregates their results. Texts become token ids by its own rules, so that
predictions and scores are those of its backend `hf`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from tasks.errors import BadInput
from tasks.evaluation.continuations import Pair, fit, likelihoods

DEFAULT_NEW_TOKENS = 256  # of the harness, for tasks that state no limit


def evaluate(
    model: Any, tokenizer: Any, tasks: Sequence[str], batch_size: int, include_path: str | None = None,
    num_fewshot: int | None = None, limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The results of the harness for `tasks`: its keys `results`, `samples`, `configs`, `versions`.

    Raises BadInput if the extra is not installed or a task does not exist or cannot be loaded.
    """
    try:
        from lm_eval import evaluator
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise BadInput(
            "evaluation.metrics.lm_eval needs the package lm-eval: run `pip install '.[lm-eval]' -c constraints.txt`, "
            "or remove `lm_eval` from params.yaml."
        ) from error
    manager = TaskManager(include_path=include_path)
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        from tasks import catalog

        raise BadInput(
            f"lm-evaluation-harness has no task {unknown[0]!r}; {catalog.suggest(unknown[0], manager.all_tasks)[:500]}"
        )
    try:
        results = evaluator.simple_evaluate(
            _scorer_class()(model, tokenizer, batch_size), tasks=list(tasks), task_manager=manager,
            num_fewshot=num_fewshot, limit=limit, bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    except (OSError, ConnectionError, ValueError) as error:
        raise BadInput(f"the tasks {', '.join(tasks)} cannot be evaluated: {type(error).__name__}: {error}") from error
    assert results is not None
    return dict(results)


@cache
def _scorer_class() -> Any:
    """The model class of the harness; it exists only if the harness is installed."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM

    class Scorer(TemplateLM):  # type: ignore[misc]  # the harness may be missing where types are checked
        """Answers the requests of the harness."""

        def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
            super().__init__()
            self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
            self.num_shortened = 0

        @property
        def eot_token_id(self) -> int:
            return int(self.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            bos = self.tokenizer.bos_token_id
            return self.eot_token_id if bos is None else int(bos)

        @property
        def max_length(self) -> int:
            from tasks.causal.backbone import context_length

            return context_length(self.model)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            if add_special_tokens is None:
                begins = string.startswith(self.tokenizer.decode(self.prefix_token_id))
                return list(self.tokenizer.encode(string, **({"add_special_tokens": False} if begins else {})))
            return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            pairs, num_shortened = _fit_all(self.model, [Pair(list(a), list(b)) for _, a, b in requests])
            self.num_shortened += num_shortened
            return [(one.total, one.is_greedy) for one in likelihoods(self.model, pairs, self.batch_size)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            windows = [
                [
                    Pair(list(a), list(b))
                    for a, b in map(
                        utils.make_disjoint_window,
                        utils.get_rolling_token_windows(
                            token_list=self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                            max_seq_len=self.max_length, context_len=1,
                        ),
                    )
                ]
                for request in requests
            ]  # fmt: skip
            scored = iter(likelihoods(self.model, [pair for own in windows for pair in own], self.batch_size))
            return [sum(next(scored).total for _ in own) for own in windows]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [_generate(self, *request.args) for request in requests]

    return Scorer


def _fit_all(model: Any, pairs: list[Pair]) -> tuple[list[Pair], int]:
    """The pairs with prompts that fit the context, and how many were shortened. Raises BadInput if one never fits."""
    fitted, num_shortened, num_too_long = fit(model, pairs)
    if num_too_long:
        raise BadInput(
            f"lm_eval: {num_too_long:,} of {len(pairs):,} continuations are longer than the context of the model; "
            "leave out these tasks, or evaluate a model with a longer context"
        )
    return fitted, num_shortened


def _generate(scorer: Any, context: str, settings: dict[str, Any]) -> str:
    """The greedy answer to `context`, up to the first text of `until`. Raises BadInput for sampling."""
    from tasks.chat_templates import end_ids
    from tasks.generation import generate

    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise BadInput("a task of lm-evaluation-harness asks for sampled answers, which are not supported")
    stops = settings.get("until") or []
    stops = [stops] if isinstance(stops, str) else list(stops)
    num_new = min(int(settings.get("max_gen_toks", DEFAULT_NEW_TOKENS)), scorer.max_length - 1)
    prompt = scorer.tok_encode(context)[-(scorer.max_length - num_new) :]
    generated = generate(
        scorer.model, [prompt], max_new_tokens=num_new, end_ids=end_ids(scorer.tokenizer, scorer.model),
        pad_id=scorer.tokenizer.pad_token_id or 0, temperature=0.0,
    )  # fmt: skip
    text = str(scorer.tokenizer.decode(generated.answers[0], skip_special_tokens=True))
    return min((text.partition(stop)[0] for stop in stops if stop), key=len, default=text)
