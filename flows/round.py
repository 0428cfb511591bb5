"""One round of training from votes: reward model, new policy, gate, evaluation, promotion.

It begins when at least --min-votes votes are in data/raw/feedback that no round has used; otherwise it says how many
there are. A round that was interrupted continues, with the votes and settings that it began with. The round is a folder
data/rounds/<number>, one version of DVC, and one run of MLflow with its stages inside.
"""

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prefect import flow
from pydantic import BaseModel, ValidationError

from flows.runtime import arguments, command, embedded, spool, tracking
from flows.runtime import params as settings
from flows.runtime.environment import RUN
from flows.versions import contents
from tasks import feedback
from tasks.errors import BadInput, BadParams, UserError
from tasks.files import MANIFEST, read_json, with_version, write_json
from tasks.reports import Timings
from tasks.rounds import tasks
from tasks.rounds.tasks import POLICY, REPLAY, START, Params, Round

CHAMPION, TARGET = "champion", "round"  # the alias of `flows.promotion`; the model of the last round
CURATION, INGESTION, TOKENIZATION = "curation", "ingestion", "tokenization"


@flow(name="round", flow_run_name="round")
def one_round(
    params: Params | None = None, data: Path = Path("data"), champion: str = CHAMPION
) -> dict[str, Any] | None:
    """Run or continue one round. Returns its state, or None if there are not enough votes."""
    params = params or Params()
    log, target = data / feedback.FOLDER, data / "models" / TARGET
    with tasks.exclusive(data):
        for earlier in tasks.complete(data):  # a kill may have come between its last step and its version
            _keep_version(earlier)
        this = tasks.unfinished(data)
        if this is None:
            num_votes = tasks.waiting_votes(data, log)
            if num_votes < params.min_votes:
                print(f"{num_votes} votes wait for a round, which begins with {params.min_votes} (--min-votes).")
                return None
            this = tasks.begin(data, log, start_model(champion, data), params)
            print(f"{this.name}: begins with {num_votes} votes ({params.method})", flush=True)
        else:
            params = Params.model_validate(this.state["params"])
            print(f"{this.name}: continues after {', '.join(this.state['steps']) or 'its beginning'}", flush=True)
        session = _session(this)
        with tracking.following(), session.closing(lambda: _tags(this), lambda: _describe(this)):
            _run(this, data, params, session, target)
    return this.state


def _session(this: Round) -> spool.Session:
    """The session of a round; a round that continues has the one in which it began, and so the same run in MLflow."""
    if "session" not in this.state:
        new = spool.Session(this.name)
        this.update(session={"id": new.id, "start": new.start})
    return spool.Session(this.name, **this.state["session"])


def start_model(name: str, data: Path) -> Path:
    """The folder that a round starts from: the newer one of the champion and the model of the last round.

    Without them, it is the model of the last stage that was trained. Models with another tokenizer than data/tokens are
    passed over: after new data, the champion may be one of an earlier pipeline. Raises BadInput for one that is named.
    """
    if name != CHAMPION:
        named = data / "models" / name if (data / "models" / name).is_dir() else Path(name)
        if named.is_dir() and not tasks.fits(named, data):
            raise BadInput(f"{named} has another tokenizer than {data / 'tokens'}. Name a model of this pipeline.")
        return named
    folders = [data / "models" / one for one in (TARGET, CHAMPION, "dpo", "ppo", "sft")]
    present = []
    for folder in (folder for folder in folders if (folder / MANIFEST).is_file()):
        if tasks.fits(folder, data):
            present.append(folder)
        else:
            print(
                f"{folder} has another tokenizer than {data / 'tokens'}, so that no round starts from it.", flush=True
            )
    newest = sorted(
        (folder for folder in present if folder in folders[:2]), key=lambda one: (one / MANIFEST).stat().st_mtime
    )
    return newest[-1] if newest else next(iter(present), folders[-1])


def _run(this: Round, data: Path, params: Params, session: spool.Session, target: Path) -> None:
    method = str(this.state["method"])
    policy = POLICY[method]
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "pairs": lambda: {"counts": _make_pairs(this, data, params)},
        "reward": lambda: _train(this, "reward", _reward_params(this, data, params), session),
        "answers": lambda: {"best_of_n": _best_answers(this, params)} if method == "rejection" else {},
        "policy": lambda: _train(this, policy, _policy_params(this, policy, params), session),
        "evaluation": lambda: tasks.evaluate(this, data, params),
        "champion": lambda: _register(this, data) if not this.state["refusals"] else {},
        "promotion": lambda: _decide(this, target),
        "queue": lambda: {"num_queued": tasks.write_queue(this, data, params)} if params.num_queued else {},
    }
    for name, work in steps.items():
        if not this.has_done(name):
            start = time.perf_counter()
            values = work()
            this.finish(name, **values)
            _print_step(this, name, time.perf_counter() - start, values)
    this.update(status="refused" if this.state["refusals"] else "promoted")
    for stage in ("reward", policy):
        shutil.rmtree(_checkpoints(this, stage), ignore_errors=True)
    _keep_version(this)


def _print_step(this: Round, name: str, seconds: float, values: Mapping[str, Any]) -> None:
    """Print what a step has counted, such as pairs and optimizer steps; results are printed at the end."""
    parts = [part for key, part in values.items() if isinstance(part, dict) and key != "results"]
    counts = ", ".join(f"{key} {number:g}" for part in parts for key, number in part.items())
    if values:
        print(f"{this.name}: {name} {seconds:.0f} s{f' ({counts})' if counts else ''}", flush=True)


def _keep_version(this: Round) -> None:
    """Add the folder to DVC, unless that was done; nothing in it changes afterwards."""
    if not this.folder.with_suffix(".dvc").is_file():
        contents.add(str(this.folder))


def _make_pairs(this: Round, data: Path, params: Params) -> dict[str, int]:
    """The votes as pairs, with personal data masked, and their token files."""
    from tasks.curation import tasks as curation
    from tasks.ingestion import tasks as ingestion
    from tasks.tokenization import tasks as tokenization

    timings = Timings(this.name)
    source = _feedback_source(tasks.vote_folders(data))
    stage_params: dict[str, Any] = {name: settings.load(name) for name in (INGESTION, CURATION, TOKENIZATION)}
    own_params: Any = stage_params[INGESTION].model_copy(update={"sources": {"feedback": source}})
    with ingestion.open_tables(own_params, this.folder) as writer:
        ingestion.ingest("feedback", source, writer, timings)
    ingestion.report(writer, own_params, this.folder, timings)
    curation.curate_records(None, stage_params[CURATION], this.folder, timings)
    counts = tasks.prepare(this, data, params)
    tokenizer = tokenization.load_tokenizer(this.folder)
    for folder in (this.folder, this.folder / REPLAY):
        pairs = tokenization.encode_preferences(tokenizer, folder, timings)
        body = {"preferences": pairs, "sequence_length": getattr(stage_params[TOKENIZATION], "sequence_length", 256)}
        write_json(folder / "tokens" / MANIFEST, with_version("tokens", body))
    return counts


def _feedback_source(folders: list[str]) -> Any:
    """The source `feedback` as params.yaml has it, but for the votes of the rounds."""
    from tasks.ingestion import tasks as ingestion

    entries = getattr(settings.load(INGESTION), "sources", {})
    stated = next((one for one in entries.values() if one.source == "feedback"), None)
    entry = stated.to_entry() if stated is not None else {"source": "feedback"}
    return ingestion.Source.model_validate({**entry, "paths": folders})


def _best_answers(this: Round, params: Params) -> dict[str, float]:
    from tasks.tokenization import tasks as tokenization

    counts = tasks.write_best_answers(this, params)
    tokenizer = tokenization.load_tokenizer(this.folder)
    stage_params: Any = settings.load(TOKENIZATION)
    packed = tokenization.encode_conversations(tokenizer, stage_params, this.folder, Timings(this.name))
    body = {"conversations": packed, "sequence_length": stage_params.sequence_length}
    write_json(this.folder / "tokens" / MANIFEST, with_version("tokens", body))
    return counts


def _reward_params(this: Round, data: Path, params: Params) -> BaseModel:
    base = tasks.previous_reward(this, data) or this.folder / "models" / START
    tokens = this.folder / REPLAY / "tokens"
    stated = _stage_params("reward", params, {"base": str(base), "data": str(tokens)})
    num_pairs = read_json(tokens / MANIFEST)["preferences"]["train"]["num_pairs"]
    return _with_few_epochs("reward", stated, params, num_pairs)


def _policy_params(this: Round, stage: str, params: Params) -> BaseModel:
    update: dict[str, Any] = {"base": str(this.folder / "models" / START)}
    if stage == "ppo":
        update["reward_model"] = str(this.folder / "models/reward")
    stated = _stage_params(stage, params, update)
    if stage != "sft":
        return stated  # the guards of dpo and ppo keep the weights of the best step
    num_rows = read_json(this.folder / "tokens" / MANIFEST)["conversations"]["train"]["num_rows"]
    return _with_low_rates(_with_few_epochs(stage, stated, params, num_rows), params)


def _with_low_rates(stated: Any, params: Params) -> BaseModel:
    """The params of sft with lower rates: those of params.yaml are meant for a model that knows no conversations."""
    names = ("learning_rate", "embedding_learning_rate")
    rates = {name: getattr(stated, name) for name in names if name not in params.changes.get("sft", {})}
    update = {name: params.sft_rate_share * rate for name, rate in rates.items() if rate is not None}
    valid: BaseModel = stated.model_copy(update=update)
    return valid


def _with_few_epochs(stage: str, stated: Any, params: Params, num_rows: int) -> BaseModel:
    """The params of a stage with fewer steps, if it would otherwise see the few data of a round too often.

    The steps of params.yaml are meant for the data of the pipeline; steps that are stated for rounds stay as they are.
    """
    steps = max(1, math.ceil(params.max_epochs * num_rows / stated.global_batch_size))
    is_kept = steps >= stated.steps or "steps" in params.changes.get(stage, {})
    update = {} if is_kept else {"steps": steps, "warmup_steps": min(stated.num_warmup_steps, steps // 2)}
    valid: BaseModel = stated.model_copy(update=update)
    return valid


def _stage_params(stage: str, params: Params, update: Mapping[str, Any]) -> BaseModel:
    """The params of a stage with the changes for rounds, and with `update`. Raises BadParams."""
    stated = settings.load(stage)
    changes = params.changes.get(stage, {})
    body = {**stated.model_dump(exclude_unset=True), **changes, **update}
    if isinstance(scratch := body.get("from_scratch"), dict):  # a change has priority over it
        body["from_scratch"] = {name: value for name, value in scratch.items() if name not in changes}
    try:
        return type(stated).model_validate(body)
    except ValidationError as error:
        raise BadParams(f"the settings of {stage} for rounds are invalid: {error}") from None


def _train(this: Round, stage: str, params: BaseModel, session: spool.Session) -> dict[str, Any]:
    """Train one stage inside the round, with a run of its own in MLflow. A repeated call resumes its checkpoints."""
    from tasks.training import tasks as training

    timings, checkpoints = Timings(stage), _checkpoints(this, stage)
    with _recorded(session, stage, params, checkpoints, this.folder):
        report = training.train(stage, params, this.folder, checkpoints, timings)
        report.write(this.folder / "reports")
        timings.write()
    for note in [*report.warnings, *report.notes]:
        print(f"{this.name}: {note}", flush=True)
    scores = {name: value for name, value in report.counts.items() if name in ("train_pairs", "steps")}
    return {stage: scores}


def _checkpoints(this: Round, stage: str) -> Path:
    """A folder for this round only: another data folder has a round of the same name, too."""
    identity = f"{this.folder.resolve()} {this.state['begun']}"
    return RUN / "checkpoints" / f"{this.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}-{stage}"


@contextmanager
def _recorded(session: spool.Session, stage: str, params: BaseModel, checkpoints: Path, folder: Path) -> Iterator[None]:
    record = session.new_record(stage, settings.flatten(params), {"round": session.name}, checkpoints / "steps.csv")
    record.write("running")
    try:
        yield
    except BaseException as error:
        record.fail(error)
        raise
    record.copy_results(folder)
    record.write("finished")


def _decide(this: Round, target: Path) -> dict[str, Any]:
    if not this.state["refusals"]:
        tasks.install(this, target)
    return {}


def _register(this: Round, data: Path) -> dict[str, Any]:
    """Evaluate the new model as the pipeline does, and let promotion compare it with the champion.

    Returns the decision as a sentence; a model that is worse than the champion is refused, so that no round starts from
    it. A project without test data, or with gates that the model does not meet, still has it as data/models/round.
    """
    from flows import evaluation, promotion

    policy, is_worse = POLICY[str(this.state["method"])], False
    try:
        loaded: Any = settings.load("evaluation")
        # The round has trained one policy; those of the other stages of the pipeline are not measured again.
        loaded = loaded.model_copy(update={"policies": tuple(dict.fromkeys((loaded.reference, policy)))})
        with TemporaryDirectory(prefix="athanor-round-") as folder:
            tasks.link_for_evaluation(this, data, Path(folder), loaded.reference)
            evaluation.measure_all(loaded, Path(folder), Timings(this.name))
            tasks.keep_evaluation(this, Path(folder))
        sentence, is_worse = promotion.after_round(this.name, this.folder, policy, data)
    except UserError as error:
        sentence = f"promotion: not registered, because {error}"
    print(f"{this.name}: {sentence}", flush=True)
    return {"champion": sentence, **({"refusals": [sentence]} if is_worse else {})}


def _tags(this: Round) -> dict[str, str]:
    body = this.state
    tags = {"round": str(body["round"]), "method": str(body["method"]), "status": str(body["status"])}
    commit = contents.save_experiment(this.name, [str(this.folder.with_suffix(".dvc"))])
    return {**tags, "dvc.experiment": commit} if commit else tags


def _describe(this: Round) -> dict[str, Any]:
    body = this.state
    numbers = {name: float(value) for name, value in body.get("results", {}).items()}
    return {
        "title": f"{this.name}: {body['method']}, {body['status']}",
        "metrics": {**numbers, "votes": body["num_votes"]},
    }


def parse(command_line: list[str] | None) -> argparse.Namespace:
    """Parse the arguments; an invalid one ends the process with exit code 2."""
    parser = arguments.parser("flows.round", __doc__)
    add = parser.add_argument
    add("--method", choices=tuple(POLICY), help="how the policy learns (default dpo)")
    add("--min-votes", type=int, help="votes with which a round begins (default 200)")
    add("--champion", default=CHAMPION, help="stage or folder to start from (default: the newer one of the "
        "model of the last round and data/models/champion, or else the last trained stage)")  # fmt: skip
    add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="a setting of rounds "
        "(replay_share=0.5) or of a stage in rounds (dpo.steps=60); may be repeated")  # fmt: skip
    add("--data", type=Path, default=Path("data"), help="folder that contains models/ and raw/ (default data)")
    arguments.add_json(parser)
    return parser.parse_args(command_line)


def round_params(args: argparse.Namespace) -> Params:
    """The settings that the arguments state. Raises BadParams."""
    body: dict[str, Any] = {"changes": {}}
    body |= {name: getattr(args, name) for name in ("method", "min_votes") if getattr(args, name) is not None}
    for change in args.changes:
        key, separator, text = change.partition("=")
        if not separator:
            raise BadParams(f"--set {change} needs the form KEY=VALUE, such as dpo.steps=60.")
        value = yaml.safe_load(text)
        stage, dot, name = key.partition(".")
        if dot:
            body["changes"].setdefault(stage, {})[name] = value
        else:
            body[key] = value
    try:
        return Params.model_validate(body)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise BadParams(f"a setting of rounds is invalid ({problems}).") from None


def run(args: argparse.Namespace) -> None:
    """Run a round and print its results."""
    params = round_params(args)
    result = embedded.flow_run(lambda: None, lambda: one_round(params, args.data, args.champion))
    if result is None:
        return
    if args.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for name, value in result["results"].items():
        print(f"{name:24}{value}")
    for reason in result["refusals"]:
        print(f"not promoted: {reason}")
    folder = args.data / tasks.ROUNDS / f"{result['round']:03}"
    print(f"round {result['round']}: {result['status']}; reports in {folder}/reports, version {folder}.dvc")


def main(command_line: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse(command_line)
    return command.guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
