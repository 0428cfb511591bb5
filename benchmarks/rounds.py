"""Votes of a simulated crowd become better models: three rounds of `python -m flows.round`, each by one command.

    make bench NAME=rounds

A crowd of annotators votes 500 times about two answers of the present model to questions of users, which are neither in
its training data nor among those that measure it: eight annotators who err in 10 % of their votes, one who takes the
first answer, one who votes at random, and five accounts that poison 5 % of the votes. No other preferences exist.
`gold` is the verifiable measure of held-out prompts, which nothing is trained on: before the first round and after
each. A small model of the source numbers is trained first; `ROUNDS_DATA=data` uses models/sft and tokens of a finished
run instead.
"""

import csv
import json
import math
import os
import random
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import over_optimization
from benchmarks.project_copy import copy_project, run
from tasks import gold, models, tables
from tasks.causal import attention
from tasks.chat_templates import ChatTemplate, end_ids
from tasks.conversations import CONVERSATIONS, PREFERENCES
from tasks.feedback import FOLDER, Crowd, FeedbackLog, Member
from tasks.generation import generate
from tasks.pairs import Prompts, read_prompts
from tasks.tokenization import bpe, records
from tasks.training.shape import architecture
from tasks.training.stages import sft

NUM_ROUNDS, NUM_VOTES, VOTES_PER_ITEM, NUM_TEST_PROMPTS, MAX_NEW_TOKENS = 3, 500, 3, 400, 24
NUM_VOTED_PROMPTS, MAX_DRAWS = 1_000, 8  # nobody votes about equal answers, and a better model gives more of them
SHARES = {"train": 0.5, "users": 0.3, "validation": 0.1, "test": 0.1}  # of the numbers
PROMPTS_OF_USERS = Path("tokens/prompts_of_users")
PARAMS = {
    "ingestion": {"sources": {"feedback": {}}}, "curation": {}, "tokenization": {"sequence_length": 128},
    "sft": {"steps": 60}, "reward": {"steps": 80, "learning_rate": 0.001, "global_batch_size": 32},
    "dpo": {"steps": 80, "learning_rate": 0.0001, "beta": 0.1, "chosen_nll_coef": 1.0, "global_batch_size": 32,
            "warmup_steps": 5, "max_new_tokens": MAX_NEW_TOKENS, "evaluate_every": 20,
            "validation": {"num_prompts": 200}},
    "ppo": {"steps": 40},
}  # fmt: skip
MEMBERS = [
    *(Member(f"annotator{n}") for n in range(8)),
    Member("onesided1", first_share=1.0),
    Member("random001", flip_share=0.5),
    *(Member(f"poison{n:03}", poison_share=1.0, weight=0.1) for n in range(5)),
]


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, Path(os.environ["ROUNDS_DATA"]) if "ROUNDS_DATA" in os.environ else None)
        crowd = Crowd(MEMBERS, seed=0)
        values = [gold_by_prompt(root / "data", root / "data/models/sft")]
        for number in range(1, NUM_ROUNDS + 1):
            start = time.monotonic()
            vote(root, crowd, number)
            code, output = run(root, "flows.round", "--min-votes", str(NUM_VOTES))
            print(output[-1500:], file=sys.stderr)
            assert code == 0, "the round failed"
            values.append(gold_by_prompt(root / "data", root / "data/models/round"))
            means = [round(sum(one) / len(one), 4) for one in values]
            print(f"round {number}: gold {means}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        print(json.dumps(summary(root / "data", crowd, values)))


def summary(data: Path, crowd: Crowd, values: list[list[float]]) -> dict[str, Any]:
    """Gold by round, the gain of the first and of all rounds in standard errors, and what was detected."""
    reports = data / "rounds" / f"{NUM_ROUNDS:03}" / "reports/ingestion"
    names = sorted(member.name for member in MEMBERS)
    excluded = {
        names[int(row["annotator"].split("-")[1]) - 1]
        for row in rows_of(reports / "feedback_annotators.csv")
        if row["excluded"]
    }
    bad = {member.name for member in MEMBERS if member.is_bad}
    flagged = {row["vote"] for row in rows_of(reports / "feedback_flagged.csv")}
    is_found = [vote in flagged or annotator_of(vote) in excluded for vote in crowd.poisoned]
    flagged_of_used = {vote for vote in flagged if annotator_of(vote) not in excluded}
    return {
        "gold": [round(sum(one) / len(one), 4) for one in values],
        "standard_errors": round(gain_in_errors(values[0], values[1]), 2),
        "standard_errors_three_against_one": round(gain_in_errors(values[1], values[-1]), 2),
        "votes": NUM_VOTES * NUM_ROUNDS, "bad_raters": len(bad), "detected_raters": len(bad & excluded),
        "wrongly_excluded": len([name for name in excluded if name.startswith("annotator")]),
        "poisoned": len(crowd.poisoned), "flagged": sum(is_found),
        "flagged_mistakes": len(flagged & crowd.mistaken), "mistakes": len(crowd.mistaken),
        "flagged_votes": len(flagged_of_used), "flagged_right_votes": len(flagged_of_used & crowd.right),
        "right_votes_of_excluded": sum(annotator_of(vote) in excluded for vote in crowd.right),
    }  # fmt: skip


def annotator_of(vote: str) -> str:
    """Who gave a vote of the crowd."""
    return vote.split("-")[0]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table of a report."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gain_in_errors(before: list[float], after: list[float]) -> float:
    """The mean of the paired differences in units of its standard error."""
    differences = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    return float(differences.mean() / (differences.std() / math.sqrt(len(differences)) + 1e-12))


def prepare(root: Path, finished: Path | None) -> None:
    """A project with a model from sft, tokenizer and prompts, without any preferences."""
    copy_project(root)
    (root / "params.yaml").write_text(json.dumps(PARAMS))  # JSON is YAML
    run_git(root)
    data = root / "data"
    if finished is not None:
        shutil.copytree(finished / "models/sft", data / "models/sft")
        for part in ("tokenizer", "prompts"):
            shutil.copytree(finished / "tokens" / part, data / "tokens" / part)
        return
    train_small_model(data)


def run_git(root: Path) -> None:
    """A first commit, so that versions of rounds have a parent."""
    author = "-c user.name=benchmark -c user.email=benchmark@localhost"
    os.system(f"cd {root} && git add params.yaml dvc.yaml && git {author} commit --quiet -m 'Begin'")


def train_small_model(data: Path) -> None:
    """A small model of the source numbers, its prompts, and the prompts of users, which it was not trained on.

    A model makes no mistakes on numbers that it was trained on, so that votes about them would teach style only.
    """
    rows = list(over_optimization.conversations())
    tokenizer = bpe.train((message["content"] for row in rows for message in row["messages"]), 340)
    bpe.save(data / "tokens/tokenizer", tokenizer)
    with TemporaryDirectory() as folder:
        write_conversations(Path(folder), [{**row, "split": "train"} for row in rows if part_of(row) == "users"])
        records.write_prompts(tokenizer, Path(folder), data / PROMPTS_OF_USERS)
    write_conversations(data, [{**row, "split": part_of(row)} for row in rows if part_of(row) != "users"])
    packing = records.Packing(128, False, 0)
    records.write_conversations(tokenizer, data / "conversations/curated", data / "tokens", packing)
    records.write_prompts(tokenizer, data, data / "tokens/prompts")
    (data / "tokens/manifest.json").write_text(json.dumps({"sequence_length": 128}))
    model = architecture.build(over_optimization.SHAPE, tokenizer, 0)
    models.save(data / "models/pretrain", model, tokenizer, {"stage": "pretrain"})
    over_optimization.train(sft, data, steps=500, learning_rate=3e-3, global_batch_size=8)


def write_conversations(data: Path, rows: list[dict[str, Any]]) -> None:
    """The curated tables of a data folder, without preferences."""
    for kind, schema in (("conversations", CONVERSATIONS), ("preferences", PREFERENCES)):
        with tables.Writer(data / kind / "curated", schema) as writer:
            for row in rows if kind == "conversations" else []:
                writer.add_row(row)


def part_of(row: dict[str, Any]) -> str:
    """Where the number of a conversation belongs, by chance: train, users, validation or test."""
    return random.Random(row["group"]).choices(list(SHARES), list(SHARES.values()))[0]


def vote(root: Path, crowd: Crowd, number: int) -> None:
    """Let the crowd vote about answers of the present model to questions of users, until there are enough votes."""
    data, rng = root / "data", random.Random(number)
    champion = data / "models/round"
    folder = champion if champion.is_dir() else data / "models/sft"
    of_users = data / PROMPTS_OF_USERS
    prompts = read_prompts((of_users if of_users.is_dir() else data / "tokens/prompts") / "train", sources=None)
    verifiable = [i for i, metadata in enumerate(prompts.metadata) if gold.verifiable(metadata)]
    prompts = prompts.select(rng.sample(verifiable, min(len(verifiable), NUM_VOTED_PROMPTS)))
    log, count = FeedbackLog(data / FOLDER), 0
    for draw in range(MAX_DRAWS):
        answers = [answer(folder, prompts, 100 * number + 10 * draw + i) for i in range(2)]
        for i, metadata in enumerate(prompts.metadata):
            pair = [{"text": one[i], "model": f"round-{number - 1}", "version": str(number - 1)} for one in answers]
            for member in crowd.voters(VOTES_PER_ITEM) if pair[0]["text"] != pair[1]["text"] else ():
                prompt = [{"role": "user", "content": str(metadata["text"])}]
                record = crowd.compare(member, prompt, pair, MeasureOf(metadata), conversation=f"c{number}-{draw}-{i}")
                count += log.append(record)
                if count == NUM_VOTES:
                    return
    raise AssertionError(f"only {count} votes: the answers of the model are too often equal")


class MeasureOf:
    """The gold reward of answers to one prompt."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata = metadata

    def __call__(self, text: str) -> float:
        """0, 0.5 or 1."""
        return gold.gold(text, self.metadata)


def gold_by_prompt(data: Path, folder: Path) -> list[float]:
    """The gold reward of sampled answers to held-out prompts."""
    prompts = read_prompts(data / "tokens/prompts/test", sources=None)
    verifiable = [i for i, metadata in enumerate(prompts.metadata) if gold.verifiable(metadata)]
    prompts = prompts.select(verifiable).evenly_spaced(NUM_TEST_PROMPTS)
    texts = answer(folder, prompts, 12345)
    return [gold.gold(text, metadata) for text, metadata in zip(texts, prompts.metadata, strict=True)]


def answer(folder: Path, prompts: Prompts, seed: int) -> list[str]:
    """One sampled answer to each prompt."""
    model, tokenizer = models.load_causal(folder)
    with attention.packed(model):
        generated = generate(
            model, prompts.ids, max_new_tokens=MAX_NEW_TOKENS, end_ids=end_ids(tokenizer, model),
            pad_id=tokenizer.pad_token_id, generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
    return ChatTemplate.of(tokenizer).texts(generated.answers)


if __name__ == "__main__":
    main()
