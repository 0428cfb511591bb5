"""The model card: README.md of a version in the format of Hugging Face, from facts on disk alone.

It is written into the version's copy of the model (data/promotion/versions/<number>/model), because data/models/<stage>
is an output of DVC, whose hash a further file would change. What is not recorded is stated as such, never guessed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks import reports
from tasks.comparison import Subject
from tasks.evaluation.score_gates import flatten
from tasks.files import MANIFEST, read_json, sha256
from tasks.pages.markdown import table
from tasks.promotion.decision import Decision
from tasks.promotion.versions import MODEL, REPORTS, Version, folder_of

CARD = "README.md"
ORIGIN = "athanor.json"
MAX_ROWS = 25  # of a table; the last line says how many more there are
FLOPS_PER_WEIGHT_AND_TOKEN = 6  # forward and backward passes (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)
SKIPPED_SCORES = ("win_rate", "gates_", "lm_eval")
NOT_RECORDED = "not recorded"


def write(root: Path, version: Version, subject: Subject, decision: Decision) -> Path:
    """Write the card of a version. Return its path."""
    folder = folder_of(root, version.number)
    data = root.parent
    chain = list(stages_of(version.stage, data))
    sections = [
        _front_matter(folder / REPORTS, chain, subject),
        f"# {version.stage}, version {version.number}\n\n{_summary(version, decision)}",
        "## Scores\n\n" + _scores(subject),
        "## Limits\n\n" + _limits(subject),
        "## Training data\n\n" + _training_data(folder / REPORTS, data),
        "## Training\n\n" + _training(chain, folder / REPORTS, version.about),
        "## Lineage\n\n" + _lineage(version, chain),
        "## Params\n\n" + _params(chain),
    ]
    path = folder / MODEL / CARD
    temporary = path.with_name(f"{CARD}.tmp")
    temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def stages_of(stage: str, data: Path) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(stage, content of athanor.json, sha256 of the manifest) of a model and of those that it was trained from."""
    visited = set[str]()
    while stage and stage not in visited and (data / "models" / stage / ORIGIN).is_file():
        visited.add(stage)
        folder = data / "models" / stage
        origin = dict(read_json(folder / ORIGIN))
        yield stage, origin, sha256(folder / MANIFEST) if (folder / MANIFEST).is_file() else ""
        base = Path(str(origin.get("base") or ""))
        stage = base.name if base.parent.name == "models" else ""


def _front_matter(folder: Path, chain: Sequence[tuple[str, Mapping[str, Any], str]], subject: Subject) -> str:
    rows = reports.read_csv(folder / "curation" / "languages.csv")
    languages = [row["language"] for row in rows if int(row.get("kept") or 0)]
    results = [
        {"type": name, "name": name, "value": score.value}
        for name, score in _scores_of(subject, is_own=True)
    ][:MAX_ROWS]  # fmt: skip
    base = str(chain[-1][1].get("base") or "") if chain else ""
    body = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["athanor", *(stage for stage, _, _ in chain)],
        **({"language": languages} if languages else {}),
        **({"base_model": base} if base and not base.startswith("data/") else {}),
        "model-index": [
            {
                "name": f"{subject.model}",
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"name": "test split of the project", "type": "private"},
                        "metrics": results,
                    }
                ],
            }
        ],
    }
    return f"---\n{yaml.safe_dump(body, allow_unicode=True, sort_keys=False)}---"


def _summary(version: Version, decision: Decision) -> str:
    verdict = decision.verdict
    return (
        f"A causal language model that Athanor has trained; the stage is `{version.stage}`. Compared with the champion "
        f"when it was registered, it was **{verdict.outcome}** on {verdict.metric or 'no metric'}: {verdict.reason}. "
        "`data/promotion/log.jsonl` says whether it is the champion now.\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{MODEL}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{MODEL}")\n```'
    )


def _scores_of(subject: Subject, is_own: bool) -> list[tuple[str, Any]]:
    """The scores of the model itself, or those of its run that belong to no other policy, such as perplexity."""
    others = {model for _, model in subject.items if model != subject.model}
    scores = {
        key: value
        for key, value in subject.report.items()
        if not key.startswith(SKIPPED_SCORES) and key not in ("counts", "measured")
    }
    return [
        (name, score)
        for name, score in flatten(scores)
        if (subject.model in name.split(".") or (name, subject.model) in subject.items) == is_own
        and not set(name.split(".")) & others
    ]


def _scores(subject: Subject) -> str:
    parts = ["On the split `test`, which no training used. Intervals have 95 % confidence."]
    for title, is_own in (("", True), ("Of the run, for the models before this one and for the test data:", False)):
        rows = [
            (name, f"{score.value:.4g}", f"{score.low:.4g} to {score.high:.4g}" if score.n > 1 else "", score.n)
            for name, score in _scores_of(subject, is_own)
        ]
        parts += [title, _table(("score", "value", "interval", "n"), rows)]
    return "\n\n".join(filter(None, parts))


def _limits(subject: Subject) -> str:
    notes = [f"- {' '.join(str(note).split())}" for note in subject.report.get("notes", [])][:MAX_ROWS]
    general = (
        "- The scores hold for texts like those of the test split. Other uses were not measured.\n"
        "- The model may state falsehoods and may repeat errors and prejudices of its training data."
    )
    return "\n".join([general, *notes])


def _training_data(folder: Path, data: Path) -> str:
    parts = []
    if sources := reports.read_csv(folder / "ingestion" / "sources.csv"):
        parts.append("Sources, in records:\n\n" + _table(list(sources[0]), [tuple(row.values()) for row in sources]))
    if funnel := reports.read_csv(folder / "curation" / "funnel.csv"):
        parts.append(
            "Documents after each step of curation:\n\n"
            + _table(list(funnel[0]), [tuple(row.values()) for row in funnel])
        )
    if reasons := reports.read_csv(folder / "curation" / "reasons.csv"):
        parts.append(
            "Dropped documents by reason:\n\n" + _table(list(reasons[0]), [tuple(row.values()) for row in reasons])
        )
    licenses = licenses_of(data / "curated")
    if licenses:
        parts.append(
            "Licenses that the documents state:\n\n" + _table(("license", "documents"), licenses.most_common())
        )
    else:
        parts.append("Licenses: the metadata of the documents state none. Check the license of each source before use.")
    return "\n\n".join(parts)  # fmt: skip


def licenses_of(folder: Path) -> Counter[str]:
    """How many documents of a table state which license in their metadata."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    counts = Counter[str]()
    for path in sorted(folder.glob("*.parquet")):
        for batch in parquet.ParquetFile(path).iter_batches(columns=["metadata"]):
            column = batch.column("metadata")
            for text in column.filter(pc.match_substring(column, '"license"')).to_pylist():
                about = json.loads(text)
                if "license" in about:
                    counts[str(about["license"])] += 1
    return counts


def _training(
    chain: Sequence[tuple[str, Mapping[str, Any], str]], folder: Path, about: Mapping[str, Any]
) -> str:  # fmt: skip
    rows = []
    for stage, origin, _ in reversed(chain):
        path = folder / f"{stage}.json"
        report = reports.read(path) if path.is_file() else {}
        counts, params = report.get("counts", {}), origin.get("params") or {}
        tokens = counts.get("num_tokens")
        weights = counts.get("num_parameters", counts.get("num_trainable_parameters"))  # without an adapter, all are
        flops = f"{FLOPS_PER_WEIGHT_AND_TOKEN * tokens * weights:.3g}" if tokens and weights else NOT_RECORDED
        rows.append(
            (
                stage,
                origin.get("kind", stage),
                params.get("steps", NOT_RECORDED),
                f"{tokens:,}" if tokens else NOT_RECORDED,
                f"{weights:,}" if weights else NOT_RECORDED,
                flops,
                origin.get("base") or "random weights",
            )
        )
    stages = _table(("stage", "kind", "steps", "tokens", "weights", "FLOPs", "started from"), rows)
    return (
        f"{stages}\n\nFLOPs are {FLOPS_PER_WEIGHT_AND_TOKEN} per weight and token, where the report of the stage "
        f"states both.\n\nHardware: {about.get('hardware', NOT_RECORDED)}."
    )


def _lineage(version: Version, chain: Sequence[tuple[str, Mapping[str, Any], str]]) -> str:
    rows = [(stage, digest or NOT_RECORDED) for stage, _, digest in chain]
    commit = str(version.about.get("commit") or "")
    facts = [
        ("git commit with params.yaml and dvc.lock", commit or NOT_RECORDED),
        ("DVC hash of the tokens", version.about.get("data") or NOT_RECORDED),
        ("sha256 of the manifest of the model", version.digest),
        ("sha256 of the report", version.report),
    ]
    command = (
        f"git worktree add --detach ../reproduction {commit}\ncd ../reproduction\ndvc repro {version.stage}"
        if commit
        else "dvc repro"
    )
    return (
        f"{_table(('fact', 'value'), facts)}\n\nModels behind this one, and the sha256 of their manifests:\n\n"
        f"{_table(('stage', 'manifest'), rows)}\n\nTo reproduce it:\n\n```console\n{command}\n```"
    )


def _params(chain: Sequence[tuple[str, Mapping[str, Any], str]]) -> str:
    blocks = [
        f"<details><summary>{stage}</summary>\n\n```json\n{text}\n```\n</details>"
        for stage, origin, _ in chain
        for text in [json.dumps(origin.get("params"), indent=1, sort_keys=True)]
    ]
    return "\n\n".join(blocks) or NOT_RECORDED


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return NOT_RECORDED
    return "\n".join(table(header, rows, MAX_ROWS))
