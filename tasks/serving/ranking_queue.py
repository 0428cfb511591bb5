"""Which prompt an annotator ranks next, and how far the ranking has come."""

import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.reports import krippendorff_alpha

Item = dict[str, Any]  # item (its id), prompt, answers, order


@dataclass
class RankingQueue:
    """prompts: in the order in which they are ranked. overlap: the share of items that two annotators rank."""

    prompts: Sequence[str]
    overlap: float = 0.2
    seed: int = 0
    _open: dict[str, Item] = field(default_factory=dict)  # by annotator: shown and not answered
    _records: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # rankings and skips by id
    _undone: set[str] = field(default_factory=set)
    _begun: set[str] = field(default_factory=set)  # items that were shown to somebody
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take note of a record of the feedback log."""
        with self._lock:
            annotator = str(record.get("annotator"))
            if record.get("action") in ("ranking", "skip"):
                self._records[str(record["id"])] = record
                self._begun.add(str(record.get("item")))
                if annotator in self._open and self._open[annotator]["item"] == record.get("item"):
                    del self._open[annotator]
            elif record.get("action") == "undo":
                self._undone.add(str(record.get("target")))
            elif record.get("action") == "deletion":
                self._undone |= {key for key, one in self._records.items() if one.get("annotator") == annotator}

    def next(self, annotator: str) -> Item | str | None:
        """What `annotator` ranks next: an item with its answers, or a prompt without answers; None if all is done."""
        with self._lock:
            if annotator in self._open:
                return self._open[annotator]
            rng = random.Random(f"{self.seed} {annotator} {len(self._records)}")
            own = {one.get("item") for key, one in self._records.items() if one.get("annotator") == annotator}
            undone = self._last_undone(annotator, own)
            if undone is not None:
                return self._show(annotator, undone, rng)
            once = [one for one in self._of_one_annotator() if one["item"] not in own]
            fresh = [prompt for prompt in self.prompts if item_id(prompt) not in self._begun]
            if once and (not fresh or rng.random() < self.overlap):
                return self._show(annotator, once[0], rng)
            if not fresh:
                return None
            self._begun.add(item_id(fresh[0]))
            return fresh[0]

    def show(self, annotator: str, prompt: str, answers: Sequence[Mapping[str, Any]]) -> Item:
        """Give the answers to a prompt that `next` returned, and show them in a random order."""
        with self._lock:
            if annotator in self._open:  # the page was loaded again while the answers were written
                self._begun.discard(item_id(prompt))
                return self._open[annotator]
            messages = [{"role": "user", "content": prompt}]
            item = {"item": item_id(prompt), "prompt": messages, "answers": list(answers)}
            return self._show(annotator, item, random.Random(f"{self.seed} {annotator} {prompt}"))

    def give_back(self, prompt: str) -> None:
        """A prompt whose answers could not be written is shown to somebody else."""
        with self._lock:
            self._begun.discard(item_id(prompt))

    def progress(self, annotator: str) -> dict[str, Any]:
        """The number of rankings, and the agreement of annotators about pairs of answers."""
        with self._lock:
            rankings = [one for key, one in self._records.items() if self._counts(key, one)]
        by_item: dict[str, list[list[float]]] = {}
        for one in rankings:
            by_item.setdefault(str(one["item"]), []).append([float(rank) for rank in one["ranks"]])
        by_item = {item: ranks for item, ranks in by_item.items() if len({len(rank) for rank in ranks}) == 1}
        mine = sum(one.get("annotator") == annotator for one in rankings)
        return {
            "ranked": len(rankings),
            "mine": mine,
            "prompts": len(self.prompts),
            "alpha": krippendorff_alpha(pair_values(by_item)),
        }

    def _counts(self, key: str, record: Mapping[str, Any]) -> bool:
        return record.get("action") == "ranking" and key not in self._undone

    def _of_one_annotator(self) -> list[Item]:
        by_item: dict[str, list[Mapping[str, Any]]] = {}
        for key, one in self._records.items():
            if self._counts(key, one):
                by_item.setdefault(str(one["item"]), []).append(one)
        return [_item(records[0]) for records in by_item.values() if len(records) == 1]

    def _last_undone(self, annotator: str, own: set[Any]) -> Item | None:
        """The item whose ranking this annotator has taken back, unless it was ranked again."""
        valid = {
            one.get("item")
            for key, one in self._records.items()
            if one.get("annotator") == annotator and key not in self._undone
        }
        for key, one in reversed(self._records.items()):
            if key in self._undone and one.get("annotator") == annotator and one.get("item") in own - valid:
                return _item(one)
        return None

    def _show(self, annotator: str, item: Item, rng: random.Random) -> Item:
        order = list(range(len(item["answers"])))
        rng.shuffle(order)
        self._open[annotator] = {**item, "order": order}
        return self._open[annotator]


def pair_values(rankings: Mapping[str, Sequence[Sequence[float]]]) -> list[list[float]]:
    """The units of rankings: for each item and each pair of its answers, what every annotator says (-1, 0 or 1).

    rankings: item -> for each annotator the rank of every answer, 0 is the best.
    """
    units = []
    for ranks in rankings.values():
        for i in range(len(ranks[0])):
            for j in range(i):
                values = [float((rank[i] > rank[j]) - (rank[i] < rank[j])) for rank in ranks]
                units += [values, [-value for value in values]]  # the same in the other order
    return units


def item_id(prompt: str) -> str:
    """The id of a prompt as an item: the prompt decides, so that a restart changes nothing."""
    return hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16]


def _item(record: Mapping[str, Any]) -> Item:
    return {"item": record["item"], "prompt": record["prompt"], "answers": record["answers"]}
