"""Register a run's model as the candidate, promote it when it beats the champion, and roll back.

data/promotion/log.jsonl is the only source of truth. A line is written after everything that it mentions is complete on
the disk; the links that servers read follow the line. A kill at any moment therefore leaves no alias on a model without
a passing report: at most a link still shows the previous model, which the next command repairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.comparison import Subject, Verdict, reading, verdicts
from tasks.errors import BadInput, GateFailed
from tasks.files import MANIFEST, sha256
from tasks.pipeline_stages import PipelineStage
from tasks.promotion import aliases, card, contamination, log, versions
from tasks.promotion.aliases import PROMOTE, REGISTER, REMOVE, ROLLBACK, State
from tasks.promotion.decision import Decision, decide, obstacles
from tasks.promotion.params import Params
from tasks.promotion.versions import Version

OWN_TEST_SETS = ("benchmarks.", "lm_eval.")
ROLLED_BACK = "this model was rolled back before; `python -m flows.promotion promote` can still promote it"


@dataclass(frozen=True)
class Outcome:
    """What a command has decided and changed. moves: the new lines of the log; decision: None for a rollback."""

    state: State
    moves: Sequence[log.Entry] = ()
    version: Version | None = None
    decision: Decision | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def promoted(self) -> bool:
        """Whether there is another champion than before."""
        return any(move["event"] in (PROMOTE, ROLLBACK) for move in self.moves)


def root_of(data: Path) -> Path:
    """The folder of promotions below `data`."""
    return data / aliases.FOLDER


def status(data: Path) -> State:
    """Which versions exist and which of them have an alias. Raises BadInput for a log that was changed."""
    return aliases.state(log.read(root_of(data)))


def final_stage(data: Path, stages: Sequence[PipelineStage]) -> str | None:
    """The stage whose model is used: the last one that answers prompts, or else the last pretraining."""
    trained = [stage for stage in stages if (data / "models" / stage.name / MANIFEST).is_file()]
    answering = [stage for stage in trained if stage.answers_prompts]
    usable = answering or [stage for stage in trained if stage.kind == "pretrain"]
    order = sorted(range(len(usable)), key=lambda index: (usable[index].depth, index))
    return usable[order[-1]].name if order else None


def update(
    data: Path, params: Params, stages: Sequence[PipelineStage], about: Mapping[str, Any], run: Path | None = None
) -> Outcome:
    """Register the model of the run below `data` if it passes its gates, and promote it if it beats the champion.

    about: commit, data and whatever else the log and the card should state. run: the folder that contains the models/
    and reports/ of the run, if it is not `data`. What forbids a registration is in the decision; it is not an error.
    Raises BadModel for damaged files and BadInput for a log that was changed.
    """
    run = run or data
    stage = params.model or final_stage(run, stages)
    with log.locked(root_of(data)):
        entries, current = _open(data)
        if stage is None or not (run / "models" / stage / MANIFEST).is_file():
            problem = f"there is no model of the stage {stage}" if stage else "there is no trained model"
            return Outcome(current, decision=_refused(problem))
        try:
            candidate = reading.read("this run", run / "reports", stage)
        except BadInput as error:
            return Outcome(current, decision=_refused(str(error)))
        digest = sha256(run / "models" / stage / MANIFEST)
        decision = decide(candidate, _champion(data, current), params.settings, digest)
        moves, number = [], current.number_of(digest, sha256(candidate.folder / reading.REPORT))
        if number is None and not decision.problems and (problem := _leak(candidate, params, data)):
            decision = replace(decision, problems=(problem,))
        if decision.problems:
            return Outcome(current, decision=decision)
        if number is None:
            number = current.next_number
            version = versions.add(root_of(data), number, stage, run, about)
            card.write(root_of(data), version, candidate, decision)
            moves.append(_move(data, entries, REGISTER, version, decision.verdict))
        version = versions.read(root_of(data), number)
        notes = []
        if decision.promotes and number != current.champion:
            if digest in current.refused:
                notes.append(ROLLED_BACK)
            else:
                versions.verify(root_of(data), version)
                moves.append(_move(data, entries, PROMOTE, version, decision.verdict))
        moves += _remove_old(data, entries, params.keep)
        return Outcome(aliases.state(entries), moves, version, decision, notes)


def promote(data: Path, number: int, params: Params, force: bool = False, reason: str = "") -> Outcome:
    """Make a registered version the champion. `force` promotes it without being better, never without passing gates.

    Raises GateFailed if it does not beat the champion, BadInput if it may not be promoted, BadModel for damaged files.
    """
    root = root_of(data)
    with log.locked(root):
        entries, current = _open(data)
        version = _registered(root, current, number)
        if number == current.champion:
            raise BadInput(f"{version.name} is the champion already")
        versions.verify(root, version)
        decision = decide(versions.subject(root, version), _champion(data, current), params.settings, version.digest)
        if decision.problems:
            raise BadInput(f"{version.name} may not be promoted: {decision.reason}")
        if not decision.promotes and not force:
            raise GateFailed(
                f"{version.name} is not promoted; it is {decision.verdict.outcome} on {decision.verdict.metric}: "
                f"{decision.reason}. `--force` promotes it nevertheless, and the log says so."
            )
        forced = {"forced": True} if force and not decision.promotes else {}
        stated = {"reason_given": reason} if reason else {}
        moves = [_move(data, entries, PROMOTE, version, decision.verdict, {**forced, **stated})]
        moves += _remove_old(data, entries, params.keep)
        return Outcome(aliases.state(entries), moves, version, decision)


def rollback(data: Path, params: Params, reason: str = "") -> Outcome:
    """Make the previous champion the champion again, after all of its bytes were compared with their hashes.

    Raises BadInput if there is none, and BadModel for damaged files.
    """
    root = root_of(data)
    with log.locked(root):
        entries, current = _open(data)
        if len(current.history) < 2:
            raise BadInput(
                "there is no earlier champion to go back to; `python -m flows.promotion status` lists versions"
            )
        previous = _registered(root, current, current.history[-2])
        versions.verify(root, previous)
        if problems := obstacles(versions.subject(root, previous), params.settings, previous.digest):
            raise BadInput(f"{previous.name} may not be champion: {'; '.join(problems)}")
        replaced = versions.read(root, current.history[-1])
        body = {"to": previous.number, "to_model": previous.digest, **({"reason_given": reason} if reason else {})}
        moves = [_move(data, entries, ROLLBACK, replaced, None, body)]
        return Outcome(aliases.state(entries), moves, previous)


def _open(data: Path) -> tuple[list[log.Entry], State]:
    """The log and its state; links that a kill has left behind are repaired first."""
    entries = log.read(root_of(data))
    current = aliases.state(entries)
    for alias in (aliases.CANDIDATE, aliases.CHAMPION):
        aliases.refuse_folder(data / "models" / alias)
    aliases.point(data, current)
    return entries, current


def _champion(data: Path, current: State) -> Subject | None:
    if current.champion is None:
        return None
    return versions.subject(root_of(data), versions.read(root_of(data), current.champion))


def _registered(root: Path, current: State, number: int) -> Version:
    if number not in current.versions:
        raise BadInput(
            f"there is no version {number}; there are: {', '.join(map(str, sorted(current.versions))) or 'none'}"
        )
    version = versions.read(root, number)
    if not versions.has_model(root, number):
        raise BadInput(
            f"the files of {version.name} were removed, because promotion.keep limits how many former champions are "
            "kept; its reports remain. Restore the model (`python -m flows.lineage` prints how) and run evaluation."
        )
    return version


def _move(
    data: Path, entries: list[log.Entry], event: str, version: Version, verdict: Verdict | None,
    more: Mapping[str, Any] | None = None,
) -> log.Entry:  # fmt: skip
    body = {
        "event": event,
        "version": version.number,
        "stage": version.stage,
        "model": version.digest,
        "report": version.report,
        "verdict": verdict.outcome if verdict else "",
        "metric": verdict.metric if verdict else "",
        "reason": verdict.reason if verdict else "",
        "commit": version.about.get("commit", ""),
        "data": version.about.get("data", ""),
        **(more or {}),
    }
    entry = log.append(root_of(data), entries, body)
    aliases.point(data, aliases.state(entries))
    return entry


def _remove_old(data: Path, entries: list[log.Entry], keep: int) -> list[log.Entry]:
    """Delete the models of versions that have no alias and are none of the last `keep` former champions."""
    current = aliases.state(entries)
    kept = {*current.history[-keep - 1 :], *([current.candidate] if current.candidate else [])}
    removed = versions.remove_models(root_of(data), kept)
    return [
        _move(data, entries, REMOVE, versions.read(root_of(data), number), None)
        for number in removed
        if number in current.versions
    ]


def _leak(candidate: Subject, params: Params, data: Path) -> str:
    """Why a primary test set of the user is contaminated; "" if it is not, or is the split that curation checks."""
    items, name = verdicts.primary_items(candidate, params.primary)
    if not items or not name.startswith(OWN_TEST_SETS):
        return ""
    num_leaked, num_searched = contamination.leaked([item.prompt for item in items.values()], data)
    if num_leaked <= params.max_leaked * len(items):
        return ""
    return (
        f"the test set of {name} is contaminated: {num_leaked:,} of {num_searched:,} questions are in the training "
        "data. Remove them from the test set or from the data, or raise promotion.max_leaked"
    )


def _refused(problem: str) -> Decision:
    return Decision(Verdict("not comparable", "", problem), (problem,))
