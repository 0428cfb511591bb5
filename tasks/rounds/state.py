"""The state of a round on disk: data/rounds/<number>/, a data folder of its own with round.json.

A round begins by a copy of the votes that no earlier round has used, under a temporary name that is renamed at last. So
every vote belongs to one round, whatever is killed: the copies themselves state which votes are used.
"""

import datetime
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import BadInput
from tasks.files import locked, read_json, sha256, sync_folder, write_json

STATE, VOTES, START, FIRST = "round.json", "votes", "start", "first"
ROUNDS = "rounds"
DIGITS = 3
USABLE = ("comparison", "ranking", "thumb")  # other actions come along, but do not count as votes


@dataclass(frozen=True, slots=True)
class Round:
    """One round. folder: its data folder, with votes/, models/, tokens/ and reports/."""

    folder: Path

    @property
    def number(self) -> int:
        """1 for the first round."""
        return int(self.folder.name)

    @property
    def name(self) -> str:
        """The name of the round in MLflow, Prefect and DVC."""
        return f"round-{self.folder.name}"

    @property
    def state(self) -> dict[str, Any]:
        """What round.json states: method, status, completed steps, results."""
        return dict(read_json(self.folder / STATE))

    def update(self, **values: Any) -> None:
        """Replace values of round.json; the file is on disk afterwards."""
        write_json(self.folder / STATE, {**self.state, **values})

    def has_done(self, step: str) -> bool:
        """Whether a step is complete."""
        return step in self.state["steps"]

    def finish(self, step: str, **values: Any) -> None:
        """Record that a step is complete."""
        self.update(steps=[*self.state["steps"], step], **values)


def all_rounds(data: Path) -> list[Round]:
    """The rounds that were begun, the oldest first."""
    return [Round(path.parent) for path in sorted((data / ROUNDS).glob(f"[0-9]*/{STATE}"))]


@contextmanager
def exclusive(data: Path) -> Iterator[None]:
    """Raise BadInput if another process runs a round of the same data."""
    (data / ROUNDS).mkdir(parents=True, exist_ok=True)
    with locked(data / ROUNDS, refusal=f"another process runs a round in {data / ROUNDS}. Wait for its end."):
        yield


def used_ids(rounds: Sequence[Round]) -> set[str]:
    """The ids of the actions that a round has used, also of those that were deleted on request since."""
    ids: set[str] = set()
    for one in rounds:
        for record in read_records(one.folder / VOTES):
            ids |= {str(record.get("id")), *map(str, record.get("erased", ()))}
    return ids


def new_records(log: Path, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """The actions of the log that no round has used, in their order."""
    used = used_ids(rounds)
    return [record for record in read_records(log) if str(record.get("id")) not in used]


def num_votes(records: Sequence[Mapping[str, Any]]) -> int:
    """The number of comparisons, rankings and thumbs; an action that was sent twice counts once."""
    return len({record["id"] for record in records if record.get("action") in USABLE})


def begin(data: Path, records: Sequence[Mapping[str, Any]], champion: Path, settings: Mapping[str, Any]) -> Round:
    """Begin the next round with these votes, from a copy of the champion. Raises BadInput without a champion."""
    if not champion.is_dir():
        raise BadInput(f"there is no model {champion} to start from. Run `make run`, or name another one (--champion).")
    rounds = all_rounds(data)
    number = rounds[-1].number + 1 if rounds else 1
    temporary = data / ROUNDS / "new"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / VOTES).mkdir(parents=True)
    with open(temporary / VOTES / "votes.jsonl", "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    shutil.copytree(champion, temporary / "models" / START)
    first = data / ROUNDS / FIRST
    if not first.is_dir() or not fits(first, data):  # the first of all rounds, or since the tokenizer changed
        install(champion, first)
    body = {
        "round": number, "status": "running", "begun": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        "num_votes": num_votes(records), "champion": str(champion), "champion_version": version(champion),
        "first_version": version(first), "steps": [],
        **settings,
    }  # fmt: skip
    write_json(temporary / STATE, body)
    folder = data / ROUNDS / f"{number:0{DIGITS}}"
    temporary.rename(folder)
    sync_folder(folder.parent)
    return Round(folder)


def fits(model: Path, data: Path) -> bool:
    """Whether a model knows the tokens in data/tokens: one of an earlier pipeline may have another tokenizer."""
    from tasks import models

    folder = data / "tokens/tokenizer"
    if not folder.is_dir():  # the first step of the round reports this
        return True
    own, of_data = (models.load_tokenizer(one).get_vocab() for one in (model, folder))
    return all(of_data.get(token) == index for token, index in own.items())


def version(model: Path) -> str:
    """The digest of a model folder: that of its manifest, which contains those of all files."""
    manifest = model / "manifest.json"
    return sha256(manifest)[:16] if manifest.is_file() else ""


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a log; lines that are no complete record are left out, as in the source `feedback`."""
    for file in sorted(folder.glob("*.jsonl")):
        with open(file, "rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and record.get("id"):
                    yield record


def install(model: Path, target: Path) -> None:
    """Make the model folder `target` a copy of `model`. A repeated call changes nothing."""
    if target.is_dir() and version(target) == version(model):
        return
    new, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(model, new)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
