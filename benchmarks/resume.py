"""Fifty kills (SIGKILL) in the training stages: how often does the resumed run end with the same bytes?

    make bench NAME=resume

Tiny models train on synthetic conversations. A random generator with a fixed seed chooses each kill: after a random
time, or inside the writing of a checkpoint. Then the stage is started again, and its model folder and step log are
compared by sha256. The processes are forked, so that a start needs no import.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}

import pyarrow as pa
import torch

from tasks import catalog, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Message, Preference
from tasks.documents import SCHEMA, Document
from tasks.files import sha256
from tasks.reports import Timings
from tasks.training.loop import checkpoint
from tasks.training.loop.checkpoint import MAX_COST, MIN_SECONDS, Saver

KILLS = 50
LOOP = {"learning_rate": 0.003, "warmup_steps": 2, "num_threads": 1, "device": "cpu", "checkpoint_every": 2}
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {"steps": 30, "sequence_length": 32, "global_batch_size": 4, "micro_batch_size": 2,
                 "model": {"width": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.1}},
    "sft": {"steps": 30, "global_batch_size": 4, "micro_batch_size": 2},
    "reward": {"steps": 30},
    "dpo": {"steps": 20, "global_batch_size": 8, "max_new_tokens": 4},
    "ppo": {"steps": 24, "rollout_size": 8, "num_epochs": 2, "max_new_tokens": 4},
}  # fmt: skip


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    with TemporaryDirectory() as folder:
        data, rng = Path(folder) / "data", random.Random(0)
        for stage in STAGES:
            catalog.find("tasks.training.stages", stage)  # imported before the first fork
        assert run_forked(lambda: prepare(data)) == 0, "tokenization failed"
        expected = {}
        for stage in STAGES:
            start = time.monotonic()
            assert run_forked(partial(train, stage, data)) == 0, f"{stage} failed"
            expected[stage] = (digest(stage, data), time.monotonic() - start)
        equal = kills = number = 0
        while kills < KILLS:
            stage = list(STAGES)[number % len(STAGES)]
            killed, same = kill_and_resume(stage, Path(folder) / str(number), data, rng, expected[stage])
            number, kills, equal = number + 1, kills + killed, equal + (killed and same)
            print(f"{kills} kills, {equal} equal ({stage})", file=sys.stderr, flush=True)
    print(json.dumps({"kills": kills, "equal": equal, **cost()}))


def kill_and_resume(
    stage: str, folder: Path, data: Path, rng: random.Random, expected: tuple[str, float]
) -> tuple[bool, bool]:
    """Run `stage` in `folder`, kill it once and resume it.

    `expected`: the digest of a run without a kill, and its seconds. Returns whether the run was killed before its end,
    and whether its digest is the expected one.
    """
    link_inputs(folder, data, stage)
    expected_digest, seconds = expected
    if rng.random() < 0.5:
        code = run_forked(lambda: train(stage, folder), kill_after=rng.uniform(0.1, 0.9) * seconds)
    else:
        at_write = rng.randrange(1, 400)
        code = run_forked(lambda: kill_inside_write(at_write, lambda: train(stage, folder)))
    if code == 0:
        return False, True
    return True, run_forked(lambda: train(stage, folder)) == 0 and digest(stage, folder) == expected_digest


def run_forked(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """Do `work` in a forked process. Return its exit code, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # discard stderr: its progress lines
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_inside_write(at_write: int, work: Callable[[], Any]) -> None:
    """Do `work`, but kill this process in the middle of the `at_write`-th write to a checkpoint."""
    original, count = checkpoint._HashingFile.write, 0

    def write(file: Any, part: bytes) -> int:
        nonlocal count
        count += 1
        if count == at_write:
            original(file, bytes(part)[: len(part) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(file, part)

    checkpoint._HashingFile.write = write  # type: ignore[assignment,method-assign]
    work()


def train(stage: str, data: Path) -> None:
    """Run one stage as its flow would."""
    module = catalog.find("tasks.training.stages", stage)
    report = module.train(module.Params(**LOOP, **STAGES[stage]), data, data / "checkpoints" / stage, Timings(stage))
    report.write(data / "reports")


def digest(stage: str, data: Path) -> str:
    """One hash of the model folder and the step log."""
    files = [*sorted((data / "models" / stage).rglob("*")), data / "reports" / stage / "steps.csv"]
    return hashlib.sha256("".join(sha256(path) for path in files if path.is_file()).encode()).hexdigest()


def link_inputs(folder: Path, data: Path, stage: str) -> None:
    """Link the tokens and models that `stage` reads into `folder`, where it writes its own."""
    (folder / "models").mkdir(parents=True)
    (folder / "tokens").symlink_to(data / "tokens")
    for model in (data / "models").iterdir():
        if model.name != stage:
            (folder / "models" / model.name).symlink_to(model)


def prepare(data: Path) -> None:
    """Write curated tables of synthetic records, and their tokens."""
    from tasks.tokenization import tasks as tokenization

    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    with (
        tables.Writer(data / "curated", SCHEMA.append(pa.field("language", pa.string()))) as documents,
        tables.Writer(data / "conversations/curated", CONVERSATIONS) as conversations,
        tables.Writer(data / "preferences/curated", PREFERENCES) as preferences,
    ):
        for number in range(200):
            name, split = str(number), "validation" if number % 10 == 0 else "test" if number % 10 == 1 else "train"
            text = " ".join(words[(number * k + k) % 10] for k in range(1, 8))
            messages: list[Message] = [{"role": "user", "content": f"say {words[number % 10]} {number}"}]
            about = {"task": "saying", "answer": words[number % 10], "closing": "."}
            documents.add_row({**Document(name, text, name).row("made", split), "language": "en"})
            answer: Message = {"role": "assistant", "content": words[number % 10]}
            conversations.add_row(Conversation(name, [*messages, answer], name, about).row("made", split))
            pair = Preference(name, messages, words[number % 10] + ".", text, name, "complete", about)
            preferences.add_row(pair.row("made", split))
    params, timings = tokenization.Params(vocab_size=290, sequence_length=64), Timings("tokenization", data / "timings")
    tokenizer = tokenization.make_tokenizer.fn(params, data, timings)
    counts = {
        "documents": tokenization.encode_documents.fn(tokenizer, data, timings),
        "conversations": tokenization.encode_conversations.fn(tokenizer, params, data, timings),
        "preferences": tokenization.encode_preferences.fn(tokenizer, data, timings),
        "prompts": tokenization.encode_prompts.fn(tokenizer, data, timings),
    }
    tokenization.report.fn(params, tokenizer, counts, data, timings)


def cost() -> dict[str, float]:
    """CPU seconds of a checkpoint of 10 million parameters with AdamW, and their share at the default interval."""
    weights = {str(n): torch.randn(1_000_000) for n in range(30)}
    with TemporaryDirectory() as folder:
        with Saver(Path(folder), 2, None) as saver:
            saver.save_async(1, {"weights": weights})
        return {
            "checkpoint_cpu_seconds": round(saver.seconds, 3),
            "checkpoint_cost": round(saver.seconds / max(MIN_SECONDS, saver.seconds / MAX_COST), 4),
        }


if __name__ == "__main__":
    main()
