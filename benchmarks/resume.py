"""kill -9 at fifty moments of every training stage: does the run that goes on end in the bytes of the one never killed?

    make bench NAME=resume

Tiny models on made-up conversations; each kill is drawn from a seed: after a random time, or inside the writing of a
checkpoint. Afterwards the stage is started again and its model folder and step log are compared by sha256. Children are
forked, so that a start costs no import.
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
    with TemporaryDirectory() as room:
        data, chance = Path(room) / "data", random.Random(0)
        for stage in STAGES:
            catalog.find("tasks.training.stages", stage)  # imported before the first fork
        assert forked(lambda: prepare(data)) == 0, "tokens could not be made"
        whole = {}
        for stage in STAGES:
            start = time.monotonic()
            assert forked(partial(train, stage, data)) == 0, f"{stage} failed"
            whole[stage] = (digest(stage, data), time.monotonic() - start)
        equal = kills = number = 0
        while kills < KILLS:
            stage = list(STAGES)[number % len(STAGES)]
            killed, same = one(stage, Path(room) / str(number), data, chance, whole[stage])
            number, kills, equal = number + 1, kills + killed, equal + (killed and same)
            print(f"{kills} kills, {equal} equal ({stage})", file=sys.stderr, flush=True)
    print(json.dumps({"kills": kills, "equal": equal, **cost()}))


def one(stage: str, room: Path, data: Path, chance: random.Random, whole: tuple[str, float]) -> tuple[bool, bool]:
    """One run of `stage` in a copy of `data` that is killed once and goes on: was it killed, is its end the same."""
    lay_out(room, data, stage)
    wanted, seconds = whole
    if chance.random() < 0.5:
        code = forked(lambda: train(stage, room), kill_after=chance.uniform(0.1, 0.9) * seconds)
    else:
        at = chance.randrange(1, 400)
        code = forked(lambda: dying_inside_a_write(at, lambda: train(stage, room)))
    if code == 0:
        return False, True
    return True, forked(lambda: train(stage, room)) == 0 and digest(stage, room) == wanted


def forked(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """Do `work` in a forked child; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_inside_a_write(at: int, work: Callable[[], Any]) -> None:
    """`work` in a process that kills itself in the middle of writing part `at` of its checkpoints."""
    plain, count = checkpoint._HashingFile.write, 0

    def write(file: Any, part: bytes) -> int:
        nonlocal count
        count += 1
        if count == at:
            plain(file, bytes(part)[: len(part) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(file, part)

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


def lay_out(room: Path, data: Path, stage: str) -> None:
    """What `stage` reads, by links, and room for what it writes."""
    (room / "models").mkdir(parents=True)
    (room / "tokens").symlink_to(data / "tokens")
    for model in (data / "models").iterdir():
        if model.name != stage:
            (room / "models" / model.name).symlink_to(model)


def prepare(data: Path) -> None:
    """Curated tables of made-up records, and their tokens."""
    from tasks.tokenization import tasks as tokenization

    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    with (
        tables.Writer(data / "curated", SCHEMA) as documents,
        tables.Writer(data / "conversations/curated", CONVERSATIONS) as conversations,
        tables.Writer(data / "preferences/curated", PREFERENCES) as preferences,
    ):
        for number in range(200):
            name, split = str(number), "validation" if number % 10 == 0 else "test" if number % 10 == 1 else "train"
            text = " ".join(words[(number * k + k) % 10] for k in range(1, 8))
            asked: list[Message] = [{"role": "user", "content": f"say {words[number % 10]} {number}"}]
            about = {"task": "saying", "answer": words[number % 10], "closing": "."}
            documents.add_row(Document(name, text, name).row("made", split))
            answer: Message = {"role": "assistant", "content": words[number % 10]}
            conversations.add_row(Conversation(name, [*asked, answer], name, about).row("made", split))
            pair = Preference(name, asked, words[number % 10] + ".", text, name, "complete", about)
            preferences.add_row(pair.row("made", split))
    params, timings = tokenization.Params(vocab_size=290, sequence_length=64), Timings("tokenization", data / "timings")
    made = tokenization.make_tokenizer.fn(params, data, timings)
    counts = {
        "documents": tokenization.encode_documents.fn(made, data, timings),
        "conversations": tokenization.encode_conversations.fn(made, params, data, timings),
        "preferences": tokenization.encode_preferences.fn(made, data, timings),
        "prompts": tokenization.encode_prompts.fn(made, data, timings),
    }
    tokenization.report.fn(params, made, counts, data, timings)


def cost() -> dict[str, float]:
    """CPU seconds of a checkpoint of 10 million parameters with AdamW's state, and its share at the loop's own pace."""
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
