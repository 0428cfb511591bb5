"""How far each policy has gone from sft: KL(policy | sft) of a whole answer, in nats.

Answers to held-out prompts are sampled from the policy at temperature 1; along each, the exact divergence of the two
next-token distributions is summed (a Rao-Blackwellized estimate, unbiased and never negative, arXiv:2504.10637).
`kl_k1` is the plain estimate from the same answers, ln p_policy - ln p_sft. sft's own is 0 by definition. Intervals:
bootstrap over answers.
"""

from pydantic import BaseModel

from tasks.evaluation import intervals
from tasks.evaluation.evidence import REFERENCE, Evidence, Finding


class Params(BaseModel, frozen=True, extra="forbid"):
    """Nothing to set."""


def measure(evidence: Evidence, params: Params) -> Finding:
    """kl and kl_k1 by model."""
    from tasks.evaluation.scoring import answer_divergences

    prompts = [prompt.ids for prompt in evidence.prompts]
    finding = Finding({"kl": {REFERENCE: intervals.score(0, 0, 0, len(prompts))}, "kl_k1": {}})
    for name in evidence.policies[1:]:
        answers = [answer.ids for answer in evidence.answers(name, greedy=False)]
        policy, reference = evidence.model(name), evidence.model(REFERENCE)
        exact, plain = answer_divergences(policy, reference, prompts, answers, evidence.params.batch_size)
        finding.scores["kl"][name] = intervals.mean(exact)
        finding.scores["kl_k1"][name] = intervals.mean(plain)
    return finding
