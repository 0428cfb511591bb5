"""Rounds as Prefect tasks. Each is complete when round.json says so, and a repeated call does nothing then."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from tasks.files import write_json
from tasks.reports import Report
from tasks.rounds import mixing, state
from tasks.rounds.mixing import REPLAY
from tasks.rounds.state import FIRST, ROUNDS, START, VOTES, Round

__all__ = ["FIRST", "REPLAY", "ROUNDS", "START", "VOTES", "Params", "Round"]

Method = Literal["dpo", "ppo", "rejection"]
POLICY = {"dpo": "dpo", "ppo": "ppo", "rejection": "sft"}  # the stage that trains the policy of a method
QUEUE = "queue.txt"  # prompts to rank next, beside the folders of the rounds
PROMPTS_OF_SOURCES = ("train", "validation", "test")


class Params(BaseModel, frozen=True, extra="forbid"):
    """When a round begins, how it trains, and when its model passes."""

    method: Method = Field(
        "dpo", description="How the policy learns: dpo on the new pairs, ppo with the reward model, or sft on the best "
        "of several answers (rejection).",
    )  # fmt: skip
    min_votes: int = Field(
        200, ge=1, description="Comparisons, rankings and thumbs that no round has used, before one begins."
    )
    replay_share: float = Field(
        1.0, ge=0, description="Older pairs per new pair in the training of the reward model, from earlier rounds and "
        "from data/preferences in equal parts.",
    )  # fmt: skip
    max_epochs: float = Field(
        4.0, gt=0, description="How often the reward model and, with rejection, sft see the data of a round at most; "
        "the steps of params.yaml are meant for more data. reward.steps and sft.steps of `changes` have priority.",
    )  # fmt: skip
    reward_function: str | None = Field(
        None, description="rejection: `gold` or module:function, which scores answers instead of the reward model."
    )
    num_answers: int = Field(4, ge=2, description="rejection: answers to each prompt, of which the best is learned.")
    sft_rate_share: float = Field(
        0.1, gt=0, le=1, description="rejection: learning rates of sft as a share of those in params.yaml, which are "
        "meant for a model that knows no conversations. Rates of sft in `changes` have priority.",
    )  # fmt: skip
    num_train_prompts: int = Field(500, ge=1, description="rejection: prompts that are answered.")
    num_prompts: int = Field(400, ge=2, description="Held-out prompts on which a round is evaluated.")
    num_queued: int = Field(100, ge=0, description="Prompts for /rank, ordered by the uncertainty of the reward model.")
    max_new_tokens: int = Field(64, ge=1, description="Maximum tokens of an answer in evaluation and rejection.")
    max_kl: float = Field(
        10.0, gt=0, description="Largest KL of the new model to the first model of all rounds, in nats per answer."
    )
    seed: int = Field(0, ge=0, description="Seed of samples and replay.")
    changes: dict[str, dict[str, Any]] = Field(
        {}, description="Settings of the stages reward, dpo, ppo and sft that differ from params.yaml in rounds."
    )


def waiting_votes(data: Path, log: Path) -> int:
    """The number of votes that no round has used."""
    return state.num_votes(state.new_records(log, state.all_rounds(data)))


def unfinished(data: Path) -> Round | None:
    """The round that was interrupted, if there is one."""
    rounds = state.all_rounds(data)
    return rounds[-1] if rounds and rounds[-1].state["status"] == "running" else None


def complete(data: Path) -> list[Round]:
    """The rounds that have ended, promoted or refused."""
    return [one for one in state.all_rounds(data) if one.state["status"] != "running"]


exclusive, fits = state.exclusive, state.fits


def begin(data: Path, log: Path, champion: Path, params: Params) -> Round:
    """Begin a round with all votes that no round has used. Raises BadInput."""
    records = state.new_records(log, state.all_rounds(data))
    return state.begin(data, records, champion, {"method": params.method, "params": params.model_dump(mode="json")})


def vote_folders(data: Path) -> list[str]:
    """The votes of all rounds, the present one last."""
    return [str(one.folder / VOTES) for one in state.all_rounds(data)]


@task(cache_policy=NO_CACHE)
def prepare(this: Round, data: Path, params: Params) -> dict[str, int]:
    """Divide the pairs into new and replayed ones, and take tokenizer and prompts over from the pipeline."""
    ids = state.used_ids([this])
    counts = mixing.divide(
        this.folder, ids, data / "preferences/curated", params.replay_share, params.seed + this.number,
        mixing.held_out_questions(data / "tokens"),
    )  # fmt: skip
    curated = this.folder / "preferences/curated"
    shutil.rmtree(curated)
    (this.folder / "preferences/new").rename(curated)
    for part in (this.folder, this.folder / REPLAY):
        shutil.copytree(data / "tokens/tokenizer", part / "tokens/tokenizer", dirs_exist_ok=True)
    for split in PROMPTS_OF_SOURCES:
        if (data / "tokens/prompts" / split).is_dir():
            target = this.folder / "tokens/prompts" / split
            shutil.copytree(data / "tokens/prompts" / split, target, dirs_exist_ok=True)
    return counts


def previous_reward(this: Round, data: Path) -> Path | None:
    """The reward model of the round before, or of the pipeline; None if there is none with the present tokenizer."""
    earlier = [one.folder / "models/reward" for one in state.all_rounds(data) if one.number < this.number]
    candidates = [*reversed(earlier), data / "models/reward"]
    return next((path for path in candidates if (path / "manifest.json").is_file() and fits(path, data)), None)


@task(cache_policy=NO_CACHE)
def write_best_answers(this: Round, params: Params) -> dict[str, float]:
    """Answer prompts several times and write the best answers as conversations, for the method rejection."""
    from tasks.rounds import rejection

    rows, counts = rejection.best_answers(
        this.folder / "models" / START, this.folder / "models/reward", params.reward_function, this.folder / "tokens",
        num_prompts=params.num_train_prompts, num_answers=params.num_answers, max_new_tokens=params.max_new_tokens,
        seed=params.seed + this.number,
    )  # fmt: skip
    mixing.write_conversations(this.folder / "conversations/curated", rows)
    return counts


@task(cache_policy=NO_CACHE)
def evaluate(this: Round, data: Path, params: Params) -> dict[str, Any]:
    """Measure the new policy beside that of the start; state whether it passes the gate, and write the report."""
    from tasks.rounds import measures

    folders = _folders(this, data)
    results = measures.measure(
        folders, this.folder / "tokens", params.num_prompts, params.max_new_tokens, params.seed + 7
    )
    samples = results.pop("samples")
    earlier = [one.state["results"] for one in _earlier(this, data) if one.state["status"] == "promoted"]
    refusals = measures.gate(results, params.max_kl, earlier)
    history = [{"round": one.number, **one.state["results"]} for one in _earlier(this, data)]
    history.append({"round": this.number, **results})
    columns = dict.fromkeys(name for row in history for name in row)
    table = [{name: row.get(name) for name in columns} for row in history]  # not every round has held-out votes
    report = Report("round", scores=dict(results), tables={"samples": samples, "rounds": table})
    report.counts = {"votes": int(this.state["num_votes"]), "refusals": len(refusals)}
    report.notes += [f"round: not promoted: {reason}." for reason in refusals]
    if warning := over_optimization(history):
        report.notes.append(warning)
    report.write(this.folder / "reports")
    return {"results": results, "refusals": refusals}


def over_optimization(history: Sequence[dict[str, Any]]) -> str | None:
    """A warning if the score has risen in the last round while gold has fallen, or KL grows faster than gold."""
    last = history[-1]
    if "gold_gain" not in last:
        return None
    score_gain = last["score_candidate"] - last["score_start"]
    if score_gain > 0 and last["gold_gain"] < 0:
        return (
            f"round {last['round']}: the score of the reward model rises by {score_gain:.4g}, but gold falls by "
            f"{-last['gold_gain']:.4g}: over-optimization. Collect more votes about answers of the new model."
        )
    return None


def link_for_evaluation(this: Round, data: Path, folder: Path, reference: str) -> None:
    """Make `folder` a data folder with links: the new models, the test data and the model `reference` of the pipeline.

    The evaluation of the pipeline measures the new model there by the same items as every other model.
    """
    own, policy = this.folder / "models", POLICY[this.state["method"]]
    targets = {f"models/{reference}": data / "models" / reference, f"models/{policy}": own / policy,
               "models/reward": own / "reward", "tokens": data / "tokens",
               "reports/curation.json": data / "reports/curation.json"}  # fmt: skip
    for name, target in targets.items():
        if target.exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target.resolve())


def keep_evaluation(this: Round, folder: Path) -> None:
    """Copy the report of an evaluation in `folder` to the reports of the round."""
    reports = this.folder / "reports"
    shutil.rmtree(reports / "evaluation", ignore_errors=True)
    shutil.copytree(folder / "reports/evaluation", reports / "evaluation")
    shutil.copyfile(folder / "reports/evaluation.json", reports / "evaluation.json")


@task(cache_policy=NO_CACHE)
def write_queue(this: Round, data: Path, params: Params) -> int:
    """Write the prompts about whose answers the reward model is least certain, for /rank. Returns their number."""
    from tasks.rounds import measures

    prompts = measures.uncertain_prompts(
        _folders(this, data), this.folder / "tokens", params.num_queued, params.max_new_tokens
    )
    lines = [" ".join(prompt.split()) for prompt in prompts]
    write_json(data / ROUNDS / "queue.json", {"round": this.number, "prompts": lines})
    (data / ROUNDS / QUEUE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def install(this: Round, target: Path) -> None:
    """Make the model folder `target` a copy of the new policy."""
    state.install(this.folder / "models" / POLICY[this.state["method"]], target)


def _earlier(this: Round, data: Path) -> list[Round]:
    """The earlier rounds with results, since the same first model: those of another tokenizer are not comparable."""
    first = this.state.get("first_version")
    return [
        one for one in state.all_rounds(data)
        if one.number < this.number and "results" in one.state and one.state.get("first_version") == first
    ]  # fmt: skip


def _folders(this: Round, data: Path) -> dict[str, Path]:
    own = this.folder / "models"
    return {
        "candidate": own / POLICY[this.state["method"]], "start": own / START, "reward": own / "reward",
        "first": data / ROUNDS / FIRST,
    }  # fmt: skip
