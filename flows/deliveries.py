"""Receive new files from a watched folder as deliveries, list them, return to one, or remove one.

Without an option, the deliveries are listed. --receive takes the files of the watched folder that are new: they are
checked, kept by hash (and pushed to DVC's remote where one is set), ingested, compared with everything before, and
checked for contamination. Training follows when enough curated records are new (see the parameters of the flow). A
training that was interrupted is continued by the next call.
"""

import json
import sys
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from prefect import flow, runtime
from pydantic import Field

from flows import notifications
from flows.pipeline import pipeline
from flows.runtime import arguments, command, embedded, environment, processes, versioning
from flows.runtime.environment import RUN
from flows.versions import contents
from tasks import reports
from tasks.deliveries import tasks
from tasks.errors import BadInput, BadParams, GateFailed
from tasks.files import locked, sha256

FOLDER = "incoming"
BASES, PRETRAINED = Path("data/bases"), Path("data/models/pretrain")
READERS = ("curation", "pretrain")  # the last stage that looks at all documents; the stage that can continue
KEPT = ("kept", "conversations_kept", "preferences_kept")  # the counts of curation whose growth starts training

Folder = Annotated[str, Field(min_length=1, max_length=4_096)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Training = Literal["continue", "afresh", "never"]


@flow(name="deliveries", flow_run_name="deliveries")
def deliveries(
    folder: Folder = FOLDER, min_age: Seconds = 60.0, min_new_share: Share = 0.05, training: Training = "afresh"
) -> dict[str, str]:
    """Receive new files as one delivery, curate them with everything before, and train when enough is new.

    Returns what the pipeline ran and restored; nothing if there is no new file.

    Args:
        folder: The watched folder; its files stay there.
        min_age: Seconds for which nobody may have changed a file, so that files that are being written wait.
        min_new_share: Train when the curated documents, conversations or preferences grew by this share since the last
            training; 0 trains always.
        training: Train afresh, continue from the last pretrained model, or never (curate only).
    """
    if run_id := runtime.flow_run.id:
        processes.record(run_id)  # so that a killed run does not hold the slot of the deployment
    with ExitStack() as stack:
        try:
            stack.enter_context(alone())
        except BadInput:
            # Prefect gives the slot of a deployment to the next run where an overloaded machine does not renew it.
            print("Another process receives deliveries, or trains on them; this run leaves them to it.")
            return {}
        return receive(Path(folder), min_age, min_new_share, training)


def alone() -> AbstractContextManager[None]:
    """Let no other process change the deliveries of this project. Raises BadInput if one does."""
    environment.make_folder()
    return locked(
        RUN / "deliveries.lock",
        refusal="another process receives deliveries, or trains on them. Run this command when it has ended.",
    )


def receive(folder: Path, min_age: float, min_new_share: float, training: Training) -> dict[str, str]:
    """Receive, curate and train, as the flow says."""
    with notifications.of_failure():
        ledger, new = tasks.receive(folder, min_age, problem_of, partial(contents.add, push=True))
    for delivery in new:
        print(f"delivery {delivery.number}: {delivery.state}, {len(delivery.files)} files {delivery.reason}")
    notifications.notify_of_refused_files(
        {file.name: d.reason for d in new if d.state == "refused" for file in d.files}
    )
    # Also those of a run that was interrupted before their curation ended.
    active = {delivery.number for delivery in ledger.deliveries if delivery.state == "active" and not delivery.counts}
    states = dict[str, str]()
    if active:
        with notifications.of_failure():
            _require_a_source(folder)
        states |= pipeline(to=READERS[0])
        counts = curation_counts()
        ledger = tasks.read()
        for delivery in ledger.deliveries:
            if delivery.number in active:
                delivery.counts = counts
        tasks.write(ledger)
    else:
        print("No new file can be read." if new else "There is no new file.")
        if not ledger.training_began:
            return states
    if not ledger.training_began:
        share = new_share(curation_counts(), ledger.trained)
        if training == "never" or share < min_new_share:
            print(f"{share:.1%} of the curated records are new since the last training; training was not started.")
            return states
        if training == "continue":
            continue_from_the_last_model()
    return states | train()


def train() -> dict[str, str]:
    """Run the pipeline and record what it has trained on; a run that is interrupted meanwhile is continued later."""
    ledger, counts = tasks.read(), curation_counts()
    ledger.training_began = True
    tasks.write(ledger)
    try:
        states = pipeline()
    except GateFailed:  # the models are trained and evaluated; training them again would not change the result
        _record_training(counts)
        raise
    _record_training(counts)
    return states


def _record_training(counts: dict[str, int]) -> None:
    ledger = tasks.read()
    ledger.trained = {name: counts.get(name, 0) for name in KEPT}
    ledger.training_began = False
    tasks.write(ledger)


def new_share(counts: dict[str, int], trained: dict[str, int]) -> float:
    """Return the share of new records among the curated ones, of the kind of record that grew most since training."""
    shares = [(counts[name] - trained.get(name, 0)) / counts[name] for name in KEPT if counts.get(name)]
    return max(shares, default=0.0)


def problem_of(paths: list[Path]) -> str:
    """Return why files cannot be read, or an empty string: the check of `python -m flows.preview`."""
    from tasks.ingestion import tasks as ingestion

    names = [str(path) for path in paths]
    try:
        preview = ingestion.preview(names)
        ingestion.check_preview(preview, names)
    except BadInput as error:
        return str(error).split("\n")[0]
    return "; ".join(f"{name}: {reason}" for name, reason in preview.not_read.items())


def curation_counts(data: Path = Path("data")) -> dict[str, int]:
    """Return the counts of curation: documents read, kept, dropped as duplicates, contaminated ..."""
    path = data / "reports" / f"{READERS[0]}.json"
    counts = reports.read(path).get("counts", {}) if path.is_file() else {}
    return {name: value for name, value in counts.items() if isinstance(value, int)}


def continue_from_the_last_model() -> None:
    """Make the next pretraining continue from a copy of the last pretrained model: the param `pretrain.base`.

    The name of the copy is the hash of its weights, so that another model makes the stage stale. The replay of earlier
    data is a param of the stage. Does nothing if there is no model yet.
    """
    import shutil

    weights = sorted(PRETRAINED.glob("*.safetensors"))
    if not weights:
        return
    base = BASES / sha256(weights[0])[:16]
    if not base.is_dir():
        temporary = base.with_name(f".{base.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(PRETRAINED, temporary)
        temporary.replace(base)
    contents.add(str(base), push=True)
    contents.set_param(f"{READERS[1]}.base", str(base))


def _require_a_source(folder: Path) -> None:
    text = Path(versioning.PARAMS).read_text(encoding="utf-8")
    if "data/raw" not in text:
        raise BadInput(
            "params.yaml has no source that reads deliveries. Add one under ingestion.sources with "
            "`paths: [data/raw/delivery-*]`; "
            f"`python -m flows.preview {folder}` proposes its other settings. The delivery is kept meanwhile."
        )


def show(as_json: bool) -> None:
    """Print all deliveries."""
    ledger = tasks.read()
    if as_json:
        print(json.dumps([delivery.model_dump() for delivery in ledger.deliveries], ensure_ascii=False, indent=1))
        return
    for delivery in ledger.deliveries:
        size = sum(file.num_bytes for file in delivery.files)
        names = ", ".join(file.name for file in delivery.files[:3]) + (" ..." if len(delivery.files) > 3 else "")
        print(f"{delivery.number:>4}  {delivery.time}  {delivery.state:<10} {size:>12,} bytes  {names}")
        if delivery.reason:
            print(f"      {delivery.reason}")
        if delivery.counts:
            counts = ", ".join(f"{name} {number:,}" for name, number in delivery.counts.items() if number)
            print(f"      all data after it: {counts}")
    print(f"{len(ledger.deliveries)} deliveries, {len(ledger.active())} of them read by ingestion")


def restore(number: int) -> None:
    """Return to the deliveries up to `number`; later ones are set aside. Raises BadInput, BadParams."""
    ledger = tasks.read()
    if ledger.get(number).state not in ("active", "set aside"):
        raise BadInput(f"delivery {number} was {ledger.get(number).state}; its files cannot be restored")
    earlier = {d.number for d in ledger.deliveries if d.number <= number and d.state in ("active", "set aside")}
    tasks.activate_numbers(earlier, contents.bring_back)
    print(
        f"Ingestion reads the deliveries {sorted(earlier)}. `python -m flows.pipeline` restores or repeats the stages."
    )


def change(restored: int | None, removed: int | None) -> None:
    """Restore or remove the delivery with this number. Raises BadInput, BadParams."""
    if restored is not None:
        restore(restored)
    elif removed is not None:
        tasks.remove(tasks.read(), removed)
        print(f"Delivery {removed} is removed. `python -m flows.pipeline` makes the data without it.")


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.deliveries", __doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--receive", action="store_true", help="receive the new files of the watched folder")
    action.add_argument(
        "--restore", type=int, metavar="N", help="read the deliveries up to N only, and set later aside"
    )
    action.add_argument("--remove", type=int, metavar="N", help="remove delivery N from the data")
    parser.add_argument("--folder", default=FOLDER, help=f"the watched folder (default: {FOLDER})")
    parser.add_argument("--min-age", type=float, default=60.0, help="seconds since a file was changed (default: 60)")
    parser.add_argument(
        "--min-new-share", type=float, default=0.05, help="new share that starts training (default: .05)"
    )
    parser.add_argument("--training", choices=("continue", "afresh", "never"), default="afresh", help="how to train")
    arguments.add_json(parser)
    parsed = parser.parse_args()

    def work() -> None:
        if parsed.receive:
            if not 0 <= parsed.min_new_share <= 1:
                raise BadParams(f"--min-new-share: expected a share from 0 to 1, received {parsed.min_new_share}")
            options = (parsed.folder, parsed.min_age, parsed.min_new_share, parsed.training)
            embedded.flow_run(lambda: None, lambda: deliveries(*options))
        elif parsed.restore is None and parsed.remove is None:
            show(parsed.json)
        else:
            with alone():
                change(parsed.restore, parsed.remove)

    return command.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
