"""The share of greedy answers that a given classifier puts into a class, such as refusals or toxic answers.

A classifier is a folder or a name of the Hub with a sequence classification model of transformers. Intervals: exact.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from tasks.errors import BadInput
from tasks.evaluation.answer_scores import reference_of, share
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured

SCORES = ("classified.*.MODEL",)


class Classifier(BaseModel, frozen=True, extra="forbid"):
    """A classifier and the class that is counted."""

    model: str = Field(description="Folder or name of the Hub of a sequence classification model of transformers.")
    label: str = Field(description="Name of the class in the config of the model, such as toxic.")
    threshold: float = Field(0.5, gt=0, lt=1, description="Smallest probability of the class that counts.")
    max_length: int = Field(256, ge=2, description="Maximum number of tokens of an answer that is read.")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Shares of answers in classes of given classifiers."""

    classifiers: dict[str, Classifier] = Field(
        default_factory=dict, description="Name of the score, such as refusal -> the classifier."
    )


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """classified: name of the classifier -> share by model; the baseline is that of the reference answers."""
    if not params.classifiers:
        raise NotMeasured("evaluation.metrics.classifiers names no classifier")
    result = MetricResult({"classified": {}})
    references = [text for prompt in inputs.prompts if (text := reference_of(prompt))]
    for key, classifier in params.classifiers.items():
        model, tokenizer, index = load(classifier)
        baseline = probabilities(model, tokenizer, references, index, classifier.max_length) if references else []
        by_model: dict[str, Any] = {}
        for name in inputs.policies:
            answers = [answer.text for answer in inputs.answers(name, greedy=True)]
            values = probabilities(model, tokenizer, answers, index, classifier.max_length)
            score = share([value >= classifier.threshold for value in values])
            if baseline:
                of_references = sum(value >= classifier.threshold for value in baseline) / len(baseline)
                score = score.compared_with("reference answers", of_references)
            by_model[name] = score
            result.items += [
                prompt.item(f"classified.{key}", name, answer, float(value >= classifier.threshold))
                for prompt, answer, value in zip(inputs.prompts, answers, values, strict=True)
            ]
        result.scores["classified"][key] = by_model
    return result


def load(classifier: Classifier) -> tuple[Any, Any, int]:
    """The model, its tokenizer and the index of the class. Raises BadInput."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model = AutoModelForSequenceClassification.from_pretrained(classifier.model).eval()
        tokenizer = AutoTokenizer.from_pretrained(classifier.model)
    except (OSError, ValueError) as error:
        raise BadInput(f"the classifier {classifier.model} cannot be loaded: {error}") from error
    labels = {str(name): int(index) for name, index in model.config.label2id.items()}
    if classifier.label not in labels:
        raise BadInput(
            f"the classifier {classifier.model} has no class {classifier.label!r}; available: {', '.join(labels)}"
        )
    return model, tokenizer, labels[classifier.label]


def probabilities(model: Any, tokenizer: Any, texts: Sequence[str], index: int, max_length: int) -> list[float]:
    """The probability of the class `index` for each text; a model with one output has a sigmoid."""
    import torch

    result = list[float]()
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                list(texts[start : start + 32]),
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            )
            logits = model(**batch).logits.float()
            p = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, index]
            result += p.tolist()
    return result
