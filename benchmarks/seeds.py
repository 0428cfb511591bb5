"""Repeat the RLHF of the default run with other seeds, from the same data and pretrained model.

    make run && make bench NAME=seeds            (five seeds, some minutes each; SEEDS=1,2 selects others)

For each seed, sft, reward, ppo and dpo are trained again. On the test split, reward accuracy, gold reward and KL of
each model and the exact match of greedy and of sampled answers are measured. A seed passes if it meets every gate of
params.yaml and the greedy exact match of no policy is below that of sft.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from flows.runtime import params
from tasks import catalog, gold
from tasks.errors import BadInput
from tasks.evaluation import gates
from tasks.evaluation import tasks as evaluation
from tasks.evaluation.inputs import EvaluationInputs
from tasks.files import read_json, write_json
from tasks.reports import Timings

WORKSPACE = Path(".bench/seeds")
STAGES = ("sft", "reward", "ppo", "dpo")
POLICIES = ("sft", "ppo", "dpo")
METRICS = ("accuracy", "gold", "kl", "reward_accuracy", "over_optimization")
Scores = dict[str, Any]


def main() -> None:
    """Print the scores of each seed on stderr and one line of JSON on stdout."""
    if not Path("data/models/pretrain/config.json").is_file():
        raise BadInput("there is no data/models/pretrain. Run `make run` first.")
    seeds = [int(seed) for seed in os.environ.get("SEEDS", "1,2,3,4,5").split(",")]
    scores_by_seed = {}
    for seed in seeds:
        scores_by_seed[seed] = rlhf(seed)
        print(f"seed {seed}: {json.dumps(scores_by_seed[seed])}", file=sys.stderr, flush=True)
    passed = [seed for seed, scores in scores_by_seed.items() if not scores["failed"]]
    print(json.dumps({"seeds": len(seeds), "held": len(passed), "by_seed": scores_by_seed}))


def rlhf(seed: int) -> Scores:
    """The scores after the four stages with this seed. They are stored, so that an interrupted benchmark continues."""
    workspace = WORKSPACE / str(seed)
    if not (workspace / "scores.json").is_file():
        data = link_data(workspace / "data")
        for stage in STAGES:
            if not (data / "models" / stage / "manifest.json").is_file():
                stage_params: Any = params.load(stage)
                stage_params = stage_params.model_copy(update={"seed": seed})
                report = catalog.find(params.TRAINING, stage).train(
                    stage_params, data, workspace / "checkpoints" / stage, Timings(stage, workspace / "timings")
                )
                report.write(data / "reports")
        write_json(workspace / "scores.json", evaluate(data))
    scores: Scores = read_json(workspace / "scores.json")
    return scores


def link_data(data: Path) -> Path:
    """A data folder with links to the tokens and the pretrained model of the default run."""
    for part in ("tokens", "models/pretrain"):
        link = data / part
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to((Path("data") / part).resolve())
    return data


def evaluate(data: Path) -> Scores:
    """The scores of the trained models, and the gates that failed."""
    evaluation_params = params.load("evaluation")
    assert isinstance(evaluation_params, evaluation.Params)
    inputs = EvaluationInputs(data, evaluation_params.model_copy(update={"policies": POLICIES}))
    scores: Scores = {}
    for name, metric_params in evaluation_params.active_metrics():
        if name in METRICS:
            scores |= catalog.find(evaluation.METRICS, name).measure(inputs, metric_params).scores
    strict = evaluation_params.gates.model_copy(
        update={"min_unigram_ratio": None, "below_bigram": False, "max_exact_match_loss": 0.0}
    )
    return {
        "reward_accuracy": round(scores["reward_accuracy"].value, 4),
        **{
            key: {name: round(score.value, 4) for name, score in scores[key].items()}
            for key in ("gold", "kl", "exact_match")
        },
        "sampled_exact_match": {name: sampled_exact_match(inputs, name) for name in inputs.policies},
        "gold_gain_standard_errors": {n: round(g, 1) for n, g in scores["gold_gain_standard_errors"].items()},
        "failed": gates.check(scores, strict).failed,
    }


def sampled_exact_match(inputs: EvaluationInputs, name: str) -> float:
    """The exact match of answers that are sampled at temperature 1."""
    answers = inputs.answers(name, greedy=False)
    is_correct = [gold.correct(a.text, p.metadata) for p, a in zip(inputs.prompts, answers, strict=True)]
    return round(sum(is_correct) / len(is_correct), 4)


if __name__ == "__main__":
    main()
