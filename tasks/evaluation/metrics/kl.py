"""How far each policy is from the reference: KL(policy | reference) of a whole answer, in nats.

Answers to test prompts are sampled from the policy at temperature 1. `kl` sums the exact divergence of the two
next-token distributions along each answer (Rao-Blackwellized, unbiased and never negative, arXiv:2504.10637). `kl_k1`
estimates the same from the probabilities of the sampled tokens alone. The KL of the reference is 0 by definition.
Intervals: bootstrap over answers.
"""

from pydantic import BaseModel

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult

SCORES = ("kl.MODEL", "kl_k1.MODEL")


class Params(BaseModel, frozen=True, extra="forbid"):
    """KL divergence of the policies from the reference. It has no params."""


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """kl and kl_k1 by model."""
    from tasks.evaluation.scoring import answer_divergences

    prompts = [prompt.ids for prompt in inputs.prompts]
    result = MetricResult({"kl": {inputs.reference: intervals.rounded_score(0, 0, 0, len(prompts))}, "kl_k1": {}})
    for name in inputs.policies[1:]:  # the first one is the reference
        answers = [answer.ids for answer in inputs.answers(name, greedy=False)]
        policy, reference = inputs.model(name), inputs.model(inputs.reference)
        kl, k1 = answer_divergences(policy, reference, prompts, answers, inputs.params.batch_size)
        texts = [answer.text for answer in inputs.answers(name, greedy=False)]
        result.items += [
            prompt.item("kl", name, text, value) for prompt, text, value in zip(inputs.prompts, texts, kl, strict=True)
        ]
        result.scores["kl"][name] = intervals.mean(kl).compared_with(inputs.reference, 0.0)
        result.scores["kl_k1"][name] = intervals.mean(k1)
    return result
