"""The real stages with tiny params: pipeline and `dvc repro` run the same stages and write the same bytes, once."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.flows.project import ROOT, Project, copy, start_versioning

STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


@pytest.fixture
def tiny_project(tmp_path: Path, plain_env: dict[str, str]) -> Project:
    """Return a copy of this project with tiny params and no results."""
    for folder in ("flows", "tasks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "constraints.txt", "data/.gitignore", "data/raw/README.md", "data/reports/.gitignore"):
        copy(ROOT / name, tmp_path / name)
    copy(ROOT / "tests/flows/tiny.yaml", tmp_path / "params.yaml")
    project = Project(tmp_path, {**plain_env, "OMP_NUM_THREADS": "1"})
    start_versioning(project)
    return project


def hashes(project: Project) -> dict[str, dict[str, str]]:
    """Return stage -> path -> hash of each output, from dvc.lock."""
    lock = yaml.safe_load((project.root / "dvc.lock").read_text(encoding="utf-8"))
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in lock["stages"].items()}


def stages_run(output: str, stages: set[str] = STAGES) -> set[str]:
    return {stage for stage in stages if f"\n{stage} ..." in f"\n{output}"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pipeline_and_dvc_repro_write_the_same_bytes(tiny_project: Project) -> None:
    output = tiny_project.run("flows.pipeline")
    assert stages_run(output) == STAGES, output
    first = hashes(tiny_project)
    assert set(first) == STAGES
    assert stages_run(tiny_project.run("dvc", "repro")) == set()

    # each stage in its own process writes the same bytes as all stages in one process
    repeated = {"curation", "pretrain", "ppo", "evaluation"}
    assert stages_run(tiny_project.run("dvc", "repro", "--force", "--single-item", *repeated)) == repeated
    assert hashes(tiny_project) == first

    params = tiny_project.root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("dpo: {", "dpo: { beta: 0.2,"), encoding="utf-8")
    assert stages_run(tiny_project.run("flows.pipeline")) == {"dpo", "evaluation"}
    assert stages_run(tiny_project.run("dvc", "repro")) == set()
    assert "Everything is up to date" in tiny_project.run("flows.pipeline")
    assert {stage for stage in STAGES if hashes(tiny_project)[stage] != first[stage]} == {"dpo", "evaluation"}

    add_second_round(tiny_project)
    assert stages_run(tiny_project.run("flows.pipeline"), {*STAGES, "mid"}) == {"mid", "evaluation"}
    assert stages_run(tiny_project.run("dvc", "repro"), {*STAGES, "mid"}) == set()
    assert {stage for stage in STAGES if hashes(tiny_project)[stage] != first[stage]} == {"dpo", "evaluation"}
    assert '"stage": "mid"' in (tiny_project.root / "data/models/mid/athanor.json").read_text(encoding="utf-8")
    scores = json.loads((tiny_project.root / "data/reports/evaluation.json").read_text(encoding="utf-8"))
    assert "mid" in scores["exact_match"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_answers_that_were_judged_alone_train_dpo_with_the_loss_kto(tiny_project: Project) -> None:
    rows = [
        {
            "prompt": f"Write the number {n} in words, please.",
            "completion": f"It is number {n}{end}",
            "label": end == ".",
        }
        for n in range(120)
        for end in ((".", "!!") if n % 3 == 0 else (".",) if n % 2 else ("!!",))  # a third of them become pairs
    ]
    tiny_project.write("data/raw/votes.jsonl", "\n".join(map(json.dumps, rows)))
    file = tiny_project.root / "params.yaml"
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    sources = params["ingestion"]["sources"]
    sources["numbers"]["num_preferences"] = 0
    sources["votes"] = {"source": "jsonl", "kind": "preferences", "paths": ["data/raw/votes.jsonl"]}
    params["dpo"] |= {"loss": "kto", "global_batch_size": 16}
    file.write_text(yaml.safe_dump(params), encoding="utf-8")
    tiny_project.run("flows.pipeline")
    reports = {
        stage: json.loads((tiny_project.root / f"data/reports/{stage}.json").read_text(encoding="utf-8"))
        for stage in ("ingestion", "tokenization", "dpo")
    }
    assert reports["ingestion"]["counts"]["preferences"] == len(rows) - 40  # 40 rows are the second answer of a pair
    counts = reports["tokenization"]["counts"]
    num_pairs, num_alone = (counts[f"preferences_train_{name}"] for name in ("num_pairs", "num_unpaired"))
    assert num_pairs > 20
    assert num_alone > 50
    trained = reports["dpo"]["counts"]
    assert (trained["train_answers"], trained["unpaired_answers"]) == (2 * num_pairs + num_alone, num_alone)


def add_second_round(project: Project) -> None:
    """Add the stage `mid`, a second round of sft after sft, as docs/evaluation.md describes it."""
    params, dvc_file = project.root / "params.yaml", project.root / "dvc.yaml"
    section = "mid: { stage: sft, base: sft, global_batch_size: 4, micro_batch_size: 4, steps: 2, warmup_steps: 1 }\n"
    params.write_text(params.read_text(encoding="utf-8") + section, encoding="utf-8")
    text = dvc_file.read_text(encoding="utf-8")
    block = text[text.index("  sft:\n") : text.index("  reward:\n")].replace("data/models/pretrain", "data/models/BASE")
    changes = {
        "  sft:": "  mid:", "training sft": "training mid", "[sft]": "[mid]", "models/sft": "models/mid",
        "reports/sft": "reports/mid", "models/BASE": "models/sft",
    }  # fmt: skip
    for old, new in changes.items():
        assert old in block
        block = block.replace(old, new)
    text = text.replace("  reward:\n", f"{block}  reward:\n")
    added = "data/models/mid, data/reports/mid, data/reports/mid.json, "
    evaluation = text.index("  evaluation:\n")
    text = text[:evaluation] + text[evaluation:].replace("data/tokens, ", f"data/tokens, {added}", 1)
    dvc_file.write_text(text, encoding="utf-8")


INCOMPLETE = "from pydantic import BaseModel\n\nclass Params(BaseModel, frozen=True, extra='forbid'):\n    pass\n"
PLUG_INS = [
    (
        "curation/filters",
        "filters",
        ["own"],
        INCOMPLETE,
        "own.py is not a complete filter: it needs the function `",
    ),
    (
        "evaluation/metrics",
        "metrics",
        {"own": {}},
        INCOMPLETE,
        "own.py is not a complete metric: it needs `SCORES`, a tuple",
    ),
    ("evaluation/metrics", "metrics", {"own": {}}, "def measure(:", "the metric 'own' cannot be imported from tasks.e"),
    ("ingestion/sources", "sources", {"own": {}}, "import nowhere", "No module named 'nowhere'"),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_incomplete_plug_in_is_refused_before_any_work(tiny_project: Project) -> None:
    """The message is one line without traceback, and no folder is created."""
    params = tiny_project.root / "params.yaml"
    default = params.read_text(encoding="utf-8")
    for package, key, names, text, message in PLUG_INS:
        tiny_project.write(f"tasks/{package}/own.py", text)
        body = yaml.safe_load(default)
        body[package.split("/")[0]][key] = names
        params.write_text(yaml.safe_dump(body), encoding="utf-8")
        output = tiny_project.run("flows.pipeline", code=2)
        assert message in output
        assert "Traceback" not in output
        assert not list((tiny_project.root / "data").glob("d*"))
        (tiny_project.root / f"tasks/{package}/own.py").unlink()
