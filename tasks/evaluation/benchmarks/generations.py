"""Sets whose answers are generated: greedy answers, an expression that extracts what counts, and scores of texts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tasks.evaluation import intervals
from tasks.evaluation.benchmarks import encoding
from tasks.evaluation.benchmarks.examples import Example
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.evaluation.items import Item
from tasks.evaluation.text_scores import CORPUS_METRICS, corpus_scores, extract, item_score
from tasks.reports import Score


def measure(
    name: str, model_name: str, examples: Sequence[Example], params: BenchmarkSet, inputs: EvaluationInputs,
    result: MetricResult,
) -> dict[str, Any]:  # fmt: skip
    """Each of `params.metrics`, the share of answers that end, and sacrebleu's `signatures` by metric.

    Items and notes go to `result`.
    """
    texts, finished = _generate(name, model_name, examples, params, inputs, result)
    answers = texts
    if params.extract is not None:
        extracted = [extract(text, params.extract) for text in texts]
        if num_missing := extracted.count(None):
            result.notes.append(
                f"benchmark {name}, {model_name}: `extract` does not match {num_missing:,} of {len(texts):,} answers, "
                "which count as wrong"
            )
        answers = [text or "" for text in extracted]
    references = [one.references for one in examples]
    majority = Counter(one.references[0] for one in examples).most_common(1)[0][0]
    scores: dict[str, Any] = {"ended": Score.of_share(sum(finished), len(finished)), "signatures": {}}
    for metric in params.metrics:
        score, values, signature = text_score(metric, answers, references, params.ignore_case)
        baseline, _, _ = text_score(metric, [majority] * len(answers), references, params.ignore_case)
        scores["signatures"] |= {metric: signature} if signature else {}
        scores[metric] = score.compared_with("the most frequent reference", baseline.value)
        result.items += [
            Item(f"benchmarks.{name}.{metric}", model_name, one.id, one.group, shown_prompt(one, params), text, value)
            for one, text, value in zip(examples, texts, values, strict=True)
        ]
    return scores


def text_score(
    metric: str, answers: Sequence[str], references: Sequence[Sequence[str]], ignore_case: bool = True
) -> tuple[Score, list[float], str]:
    """The score of all answers, that of each one, and sacrebleu's signature; empty for other metrics."""
    if metric in CORPUS_METRICS:
        score, signature, sentences = corpus_scores(metric, answers, references)
        return score, sentences, signature
    values = [item_score(metric, answer, own, ignore_case) for answer, own in zip(answers, references, strict=True)]
    return intervals.unit_mean(values), values, ""


def shown_prompt(example: Example, params: BenchmarkSet) -> str:
    """The prompt as a text; of a chat, its messages."""
    if params.chat or example.messages:
        return "\n".join(f"{message['role']}: {message['content']}" for message in encoding.messages(example))
    return encoding.full_context(example, example.contexts[0], params)


def _generate(
    name: str, model_name: str, examples: Sequence[Example], params: BenchmarkSet, inputs: EvaluationInputs,
    result: MetricResult,
) -> tuple[list[str], list[bool]]:  # fmt: skip
    """The greedy answers, without what follows a text of `stop`, and whether each one ended."""
    from tasks.causal.backbone import context_length
    from tasks.chat_templates import ChatTemplate, end_ids
    from tasks.evaluation.batches import generate

    model, tokenizer = inputs.model_and_tokenizer(model_name)
    is_chat = params.chat or bool(examples[0].messages)
    if is_chat:
        prompts = encoding.chat_ids(tokenizer, examples)
    else:
        contexts = [encoding.full_context(one, one.contexts[0], params) for one in examples]
        prompts = encoding.text_ids(tokenizer, contexts, params.prefix)
    room = context_length(model) - params.max_new_tokens
    if room < 1:
        raise NotMeasured(f"max_new_tokens ({params.max_new_tokens}) of {name} fills the context of {model_name}")
    if num_long := sum(len(ids) > room for ids in prompts):
        result.notes.append(
            f"benchmark {name}, {model_name}: {num_long:,} of {len(prompts):,} prompts are longer than {room:,} tokens "
            "and lost tokens at their beginning"
        )
    ends = end_ids(tokenizer, model)
    answers, finished = generate(
        inputs.source(model_name), [ids[-room:] for ids in prompts], max_new_tokens=params.max_new_tokens, end_ids=ends,
        pad_id=tokenizer.pad_token_id or 0, batch_size=inputs.params.batch_size,
    )  # fmt: skip
    if is_chat:
        texts = ChatTemplate.of(tokenizer).texts(answers)
    else:
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    stops = [min((place for stop in params.stop if (place := text.find(stop)) >= 0), default=None) for text in texts]
    shortened = [text if stop is None else text[:stop] for text, stop in zip(texts, stops, strict=True)]
    ended = [flag or stop is not None for flag, stop in zip(finished, stops, strict=True)]
    return shortened, ended
