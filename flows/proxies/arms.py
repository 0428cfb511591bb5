"""One arm of an ablation: its data, its models with one seed, and their scores on the test set of the baseline.

Each step is a folder below .run/ablation, named by the hash of all that its result depends on: params, code and the
steps before. Arms that agree up to a step share its folder, and a command that was killed continues after the last
complete one; a training continues from its checkpoint. What params.yaml itself describes is not made again: data/ is
brought up to date by the pipeline before, from DVC's cache where that has it.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows import curation, ingestion, tokenization
from flows.proxies import changes, runs
from flows.proxies.changes import Sections
from flows.runtime import versioning
from flows.runtime.environment import RUN
from tasks import comparison, pipeline_stages, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES
from tasks.documents import SCHEMA
from tasks.errors import BadParams
from tasks.evaluation import tasks as evaluation
from tasks.files import MANIFEST, read_json
from tasks.reports import Timings

WORK, DATA = RUN / "ablation", Path("data")
INGESTION, CURATION, TOKENIZATION, PRETRAIN = "ingestion", "curation", "tokenization", "pretrain"
DATA_STAGES = (INGESTION, CURATION, TOKENIZATION)
TABLES = {  # as ingestion writes it -> as curation does, and its schema there
    "documents": ("curated", SCHEMA),
    "conversations/raw": ("conversations/curated", CONVERSATIONS),
    "preferences/raw": ("preferences/curated", PREFERENCES),
}
RAW, TEST, MIN_STEPS = ("data/raw",), "test", 20
FLOPS_PER_WEIGHT_AND_TOKEN = 6  # arXiv:2001.08361


@dataclass(frozen=True)
class Settings:
    """What all arms have in common. rungs: of the ladder, whose smallest one is the proxy; 0 keeps the full size."""

    to: str
    stages: tuple[str, ...]  # the training stages up to `to`, in order
    rungs: int
    max_test: int
    metrics: Mapping[str, Any]
    baseline: Sections
    code: Mapping[str, str]  # stage -> hash of its code


def code_hashes(stages: Sequence[str]) -> dict[str, str]:
    """The hash of the code of each stage, as dvc.yaml lists it, and of the files in data/raw."""
    hashes = {}
    for stage in stages:
        with versioning.current(stage) as versions:
            deps = {path: md5 for path, md5 in versions.deps.items() if path != versioning.PARAMS}
        hashes[stage] = _hash({path: md5 for path, md5 in deps.items() if path in RAW or not path.startswith("data/")})
    return hashes


def tokens(arm: Sections, settings: Settings) -> tuple[Path, dict[str, Any]]:
    """The folder of an arm with tokens/, whose test split is that of the baseline, and facts about them.

    The seconds include those of the steps before.
    """
    read = [folder for raw, (curated, _) in TABLES.items() for folder in (raw, curated)]
    seconds, source, key = 0.0, DATA, _hash([read_json(DATA / one / MANIFEST) for one in read])
    changed = [stage for stage in DATA_STAGES if _body(arm, stage) != _body(settings.baseline, stage)]
    if INGESTION in changed:
        source, seconds = _ingested(arm, settings)
        key = source.name
    if INGESTION in changed or CURATION in changed:
        source, own_seconds = _curated(arm, settings, source, key)
        key, seconds = source.name, seconds + own_seconds
    parts = [key, _body(arm, TOKENIZATION), _body(settings.baseline, CURATION), settings.max_test]
    folder = _folder("tokens", [*parts, settings.code[CURATION], settings.code[TOKENIZATION]])
    facts = runs.once(folder, lambda: _encode(arm, settings, source, folder))
    return folder, {**facts, "seconds": facts["seconds"] + seconds}


def proxy(arm: Sections, settings: Settings, seed: int, data: Path) -> dict[str, Any]:
    """The Params of each training stage of an arm with one seed, at the size of the proxy. data: has tokens/."""
    share, result = 1.0, {}
    for stage in settings.stages:
        place = f"{stage} of the proxy"
        full = changes.settings(stage, arm, place)
        body = {key: value for key, value in arm.get(stage, {}).items() if key != "stage"}
        body["seed"] = full.seed + seed
        if stage == PRETRAIN and settings.rungs and full.base is None and full.objective == "causal":
            body = runs.without_size(body, full)
            rung = _smallest_rung(body, place, data, settings.rungs)
            body["model"] |= rung.model
            share = rung.steps[0] / full.steps
        if share < 1:
            body["steps"] = max(MIN_STEPS, round(full.steps * share))
            body["warmup_steps"] = min(full.num_warmup_steps, body["steps"] // 4)
        result[stage] = changes.settings(stage, {stage: {**arm.get(stage, {}), **body}}, place)
    return result


def check_proxy(settings: Settings) -> None:
    """Raise BadParams if the model of params.yaml has no proxy, before data are made, if the vocabulary is known."""
    if (DATA / "tokens" / MANIFEST).is_file():
        proxy(settings.baseline, settings, 0, DATA)


def _smallest_rung(body: Sections, place: str, data: Path, rungs: int) -> Any:
    try:
        return runs.plan(body, place, data, rungs, 1).rungs[-1]
    except BadParams as error:
        raise BadParams(
            f"the model of params.yaml has no proxy that is {rungs} rungs smaller, because it is small itself or has "
            "few steps. Use --full-size, or a smaller --rungs."
        ) from error


def trained(arm: Sections, settings: Settings, seed: int, data: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the last model of an arm with one seed, and the weights, tokens and seconds of its training."""
    links, cost = dict[str, Path](), {"weights": 0.0, "tokens": 0.0, "flops": 0.0, "seconds": 0.0}
    key, folder = data.name, data
    for stage, stage_params in proxy(arm, settings, seed, data).items():
        folder = _folder(stage, [key, stage, stage_params.model_dump(mode="json"), settings.code[stage]])
        for name in ("tokens", "reports/curation.json"):
            runs.link(data / name, folder / name)
        for name, model in links.items():
            runs.link(model, folder / "models" / name)
        facts = runs.once(folder, functools.partial(_train, stage, stage_params, folder))
        links[stage], key = folder / "models" / stage, folder.name
        cost["weights"] = facts["weights"]
        for name in ("tokens", "flops", "seconds"):
            cost[name] += facts[name]
    return folder, cost


def evaluated(folder: Path, settings: Settings) -> tuple[comparison.Subject, float]:
    """The scores and items of the model of `to` in `folder`, and the seconds that this took."""
    params = evaluation.Params.model_validate(
        {**settings.baseline.get("evaluation", {}), "metrics": settings.metrics, "policies": [settings.to],
         "reference": settings.to, "gates": {}, "champion_report": None}
    )  # fmt: skip
    digests = evaluation.digests_of_benchmarks(params)
    place = _folder("scores", [folder.name, params.model_dump(mode="json"), digests, settings.code["evaluation"]])
    for name in ("tokens", "models", "reports/curation.json"):
        runs.link(folder / name, place / name)
    facts = runs.once(place, lambda: _evaluate(params, place))
    return comparison.read(folder.name, place / "reports"), float(facts["seconds"])


def _ingested(arm: Sections, settings: Settings) -> tuple[Path, float]:
    folder = _folder(INGESTION, [_body(arm, INGESTION), settings.code[INGESTION]])
    return folder, runs.once(folder, lambda: ingestion.ingestion(_params(arm, INGESTION), folder) or {})["seconds"]


def _curated(arm: Sections, settings: Settings, source: Path, key: str) -> tuple[Path, float]:
    params = _params(arm, CURATION)
    if params.deliveries:
        raise BadParams(
            "curation.deliveries: an ablation of ingestion or curation would add its documents to this index. Set it "
            "to null in params.yaml for the ablation."
        )
    folder = _folder(CURATION, [key, _body(arm, CURATION), settings.code[CURATION]])
    for name in TABLES:
        runs.link(source / name, folder / name)
    return folder, runs.once(folder, lambda: curation.curation(params, folder) or {})["seconds"]


def _encode(arm: Sections, settings: Settings, source: Path, folder: Path) -> dict[str, Any]:
    """Put train and validation of the arm and the test split of the baseline together, and make tokens of them.

    Curation runs once more, without filters: it removes what train and test share from train, in every arm by the
    settings of the baseline, so that an arm without these checks is not better by reading the test set.
    """
    counts = {}
    for raw, (curated, schema) in TABLES.items():
        test = _test_rows(DATA / curated, settings.max_test)
        others = (part.filter(pc.not_equal(part["split"], TEST)) for part in tables.batches(source / curated))
        tables.write(folder / raw, schema, [*others, test])
        counts[raw.partition("/")[0]] = int(test.num_rows)
    base = _params(settings.baseline, CURATION)
    checks = base.model_copy(
        update={"filters": (), "exact": False, "minhash": None, "deliveries": None, "repeats": None, "pii": None,
                "rehydration": None, "repeated_records": False, "strict": False,
                "contamination": base.contamination or type(base)().contamination}
    )  # fmt: skip
    curation.curation(checks, folder)
    tokenization.tokenization(_params(arm, TOKENIZATION), folder)
    kept = [_test_rows(folder / curated, settings.max_test).num_rows for curated, _ in TABLES.values()]
    assert kept == list(counts.values()), f"curation changed the test set: {counts} became {kept}"
    train = read_json(folder / "tokens" / MANIFEST)["documents"]["train"]
    return {"test": counts, "train_documents": train["num_documents"], "train_tokens": train["num_tokens"]}


def _test_rows(folder: Path, max_test: int) -> pa.Table:
    """The rows of the test split of a table, at most `max_test` of them, evenly spaced."""
    test = pa.concat_tables(part.filter(pc.equal(part["split"], TEST)) for part in tables.shards(folder))
    if test.num_rows > max_test:
        test = test.take(pa.array([index * test.num_rows // max_test for index in range(max_test)]))
    return test


def _train(stage: str, stage_params: Any, folder: Path) -> dict[str, Any]:
    report = runs.train(stage, stage_params, folder)
    report.write(folder / "reports")
    for checkpoint in (folder / "checkpoints").glob("*/"):  # the log of the steps stays
        shutil.rmtree(checkpoint)
    weights = report.counts.get("num_parameters", report.counts.get("num_trainable_parameters", 0))
    row_length = getattr(stage_params, "sequence_length", read_json(folder / "tokens" / MANIFEST)["sequence_length"])
    num_tokens = 0  # of packed rows; pairs and answers have no fixed length
    if hasattr(stage_params, "micro_batch_size"):
        num_tokens = stage_params.steps * stage_params.global_batch_size * row_length
    return {"weights": weights, "tokens": num_tokens, "flops": FLOPS_PER_WEIGHT_AND_TOKEN * weights * num_tokens}


def _evaluate(params: Any, folder: Path) -> dict[str, Any]:
    stages, timings = pipeline_stages.read_stages(), Timings("evaluation", folder / "timings")
    benchmarks = evaluation.load_benchmarks(params)
    inputs = evaluation.open_inputs(params, folder, stages)
    results = [evaluation.measure(name, own, inputs, timings) for name, own in params.active_metrics()]
    results += [evaluation.measure_benchmark(name, params, inputs, benchmarks[name], timings) for name in benchmarks]
    evaluation.write_report(results, inputs, params, folder, stages, timings)
    return {}


def _params(sections: Sections, stage: str) -> Any:
    return changes.settings(stage, sections, f"{stage} of the ablation")


def _body(sections: Sections, stage: str) -> Any:
    return _params(sections, stage).model_dump(mode="json")


def _folder(name: str, parts: Any) -> Path:
    return WORK / f"{name}-{_hash(parts)}"


def _hash(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()[:16]
