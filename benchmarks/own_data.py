"""The public sets of ../shared/data through the whole pipeline, with the params that a new user would write.

    make bench NAME=own_data

The files are put under data/raw/ of a copy of the project: Chinese and English documents, Alpaca in both languages, and
three sets of preferences. The sources are the paragraphs that `python -m flows.preview` prints for these folders; all
other params are those of params.yaml with few training steps, and without the gates that need more of them.

Which texts are clean is decided by `own_data_labels.py`, from the characters of the raw files alone. A clean text is
kept if it, or another one that is equal without white space and case, is in data/curated. `unreported` counts the rows
that are neither in the tables of a stage nor in its report; the rows of the raw files are counted here, by gzip, json
and csv, and not by the readers of the project.
"""

import csv
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks import corpora, own_data_labels, project_copy
from tasks import tables

SETS = {
    "zh": ("text_zh/CLUE*.gz", "text_zh/chnsenticorp*.gz", "text_zh/book_review*.gz", "text_zh/waimai*.gz"),
    "en": ("web_text_en/c4_demo*.gz", "web_text_en/dj_redpajama*.gz", "web_text_en/wiki*.gz", "lm_text_en/*.gz"),
    "alpaca": ("alpaca_en/*.gz", "alpaca_zh_a/*.gz"),
    "preferences": ("hh_harmless/*.gz", "pref_zh/dpo_zh*.gz", "pref_zh/oaast_rm*.gz"),
}
LABELS = {"zh": own_data_labels.is_clean_chinese, "en": own_data_labels.is_clean_english}
NUM_SHORT = range(10, 40)  # characters of a short Chinese text
STEPS = {"pretrain": 20, "sft": 20, "reward": 10, "dpo": 4, "ppo": 4}
Rows = list[tuple[str, str]]
"""(id of the record without its source, text) of every row of a file; the text of records is empty"""


def copy_sets(root: Path) -> None:
    """Copy the public sets into a copy of the project."""
    for name, patterns in SETS.items():
        (root / "data/raw" / name).mkdir()
        for path in (path for pattern in patterns for path in sorted(corpora.DATA.glob(pattern))):
            shutil.copyfile(path, root / "data/raw" / name / path.name)


def run(root: Path, *command: str) -> tuple[int, str]:
    """Run a command in a copy of the project, and print its output. Return exit code and output."""
    code, text = project_copy.run(root, *command)
    print(text, flush=True)
    return code, text


def preview(root: Path) -> dict[str, Any]:
    """Return the sources that the preview of the folders proposes."""
    _, text = run(root, "flows.preview", *(f"data/raw/{name}" for name in SETS))
    _, _, paragraph = text.partition("\ningestion:\n")
    sources: dict[str, Any] = yaml.safe_load(f"ingestion:\n{paragraph}")["ingestion"]["sources"]
    return sources


def write_params(root: Path, sources: dict[str, Any]) -> None:
    """Write the project's params.yaml with these sources, few steps, and no gates that few steps cannot pass."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["ingestion"]["sources"] = sources
    for stage, steps in STEPS.items():
        params[stage] |= {"steps": steps, "warmup_steps": 1, "evaluate_every": steps}
    params["evaluation"]["gates"] = {"refuse_over_optimization": False}
    (root / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True, sort_keys=False), encoding="utf-8")


def raw_rows(path: Path, source: dict[str, Any]) -> Rows:
    """Return the rows of a raw file: lines, paragraphs or the whole of a text, rows of a table, objects in lines."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
        text = file.read().removeprefix("\ufeff")
    if source["source"] == "csv":
        return list(_csv_rows(text, source))
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if source["source"] == "jsonl":
        name = source.get("fields", {}).get("text", "text")
        return [(str(n), str(json.loads(line).get(name, ""))) for n, line in enumerate(lines, 1) if line.strip()]
    per = source.get("per", "file") if source.get("kind", "documents") == "documents" else "line"
    if per == "line":
        return [(str(number), line) for number, line in enumerate(lines, 1) if line.strip()]
    return list(_paragraphs(lines)) if per == "paragraph" else [("", text)]


def _csv_rows(text: str, source: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the line and the text of each row of a table."""
    delimiter = source.get("delimiter") or ("\t" if text.split("\n", 1)[0].count("\t") else ",")
    if delimiter == "\t":  # in text between tabs, quotes are characters
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    columns = source.get("column_names") or next(reader)
    column, line = columns.index(source.get("fields", {}).get("text", "text")), reader.line_num
    for row in reader:
        yield str(line + 1), row[column] if column < len(row) else ""
        line = reader.line_num


def _paragraphs(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the first line and the text of each group of lines between blank lines."""
    group: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            group.append(line)
        elif group:
            yield str(number - len(group)), "\n".join(group)
            group = []


def files_of(root: Path, source: dict[str, Any]) -> list[Path]:
    """Return the raw files that a source names, without those that another source of its folder reads."""
    endings = {"jsonl": (".jsonl.gz",), "csv": (".csv.gz", ".tsv.gz"), "text": (".txt.gz",)}[source["source"]]
    paths = [root / path for path in source["paths"]]
    return [file for path in paths for file in ([path] if path.is_file() else sorted(path.iterdir()))
            if path.is_file() or file.name.endswith(endings)]  # fmt: skip


def table_ids(folder: Path) -> list[str]:
    """Return the ids of a table; none if there is no table."""
    return [] if not folder.is_dir() else [str(value) for value in tables.read(folder)["id"].to_pylist()]


def unreported_by_ingestion(root: Path, sources: dict[str, Any]) -> Counter[str]:
    """Return the rows of each raw file that are in no table and in no count of quarantined and skipped rows."""
    data, missing = root / "data", Counter[str]()
    folders = ("documents", "conversations/raw", "preferences/raw")
    kept = {identifier.split("/0", 1)[0] for folder in folders for identifier in table_ids(data / folder)}
    reports = json.loads((data / "reports/ingestion/files.json").read_text(encoding="utf-8"))
    lost = {(r["source"], r["file"]): r["quarantined"] + r["skipped"] for r in reports}
    read = {(r["source"], r["file"]): r["read"] for r in reports}
    for name, source in sources.items():
        for path in files_of(root, source):
            file = path.relative_to(root).as_posix()
            rows = raw_rows(path, source)
            num_kept = sum(record_id(name, file, number) in kept for number, _ in rows)
            differences = len(rows) - num_kept - lost.get((name, file), 0), len(rows) - read.get((name, file), 0)
            missing[file] += max(map(abs, differences))
    with (data / "reports/ingestion/files_not_read.csv").open(encoding="utf-8", newline="") as table:
        not_read = {root / row["file"] for row in csv.DictReader(table)}
    listed = {file for source in sources.values() for file in files_of(root, source)}
    for path in sorted((root / "data/raw").glob("*/*")):  # a file that no source reads is lost as a whole
        missing[path.relative_to(root).as_posix()] += path not in listed and path not in not_read
    return missing


def record_id(source: str, file: str, number: str) -> str:
    """Return the id that the tables give a row."""
    return f"{source}/{file}:{number}" if number else f"{source}/{file}"


def unreported_later(root: Path) -> Counter[str]:
    """Return the records that curation, tokenization, reward and dpo lost without a count in their reports."""
    data, missing = root / "data", Counter[str]()
    curation, tokenization = (
        json.loads((data / f"reports/{stage}.json").read_text(encoding="utf-8"))["counts"]
        for stage in ("curation", "tokenization")
    )
    kept, dropped = len(table_ids(data / "curated")), len(table_ids(data / "dropped/documents"))
    missing["curation documents"] = abs(len(table_ids(data / "documents")) - kept - dropped)
    missing["curation report"] = abs(curation["kept"] - kept) + abs(curation["dropped"] - dropped)
    encoded = {"documents": ("num_documents",), "conversations": ("num_conversations", "num_dropped")}
    encoded["preferences"] = ("num_pairs", "num_unpaired")
    for kind, names in encoded.items():
        folder = data / "curated" if kind == "documents" else data / kind / "curated"
        num_curated = len(table_ids(folder))
        if kind != "documents":
            reasons = [n for key, n in curation.items() if _is_reason(key, kind)]
            missing[f"curation {kind}"] = abs(len(table_ids(data / kind / "raw")) - num_curated - sum(reasons))
        splits = ("train", "validation", "test")
        num_encoded = sum(tokenization.get(f"{kind}_{split}_{name}", 0) for split in splits for name in names)
        missing[f"tokenization {kind}"] = abs(num_curated - num_encoded)
    for stage in ("reward", "dpo"):
        trained = json.loads((data / f"reports/{stage}.json").read_text(encoding="utf-8"))["counts"]
        num_reported = trained["train_pairs"] + trained.get("too_long_pairs", 0)
        missing[stage] = abs(tokenization["preferences_train_num_pairs"] - num_reported)
    return missing


def _is_reason(key: str, kind: str) -> bool:
    """Return whether a count of curation's report is that of records that were dropped for a reason."""
    name = key.removeprefix(f"{kind}_")
    return name != key and name not in ("read", "kept") and not name.startswith("masked_")


def kept_shares(root: Path, sources: dict[str, Any]) -> dict[str, float]:
    """Return the shares of the clean texts that are kept, and print clean and kept texts of every file."""
    kept = set(table_ids(root / "data/curated"))
    clean: dict[str, dict[str, bool]] = {"zh_short": {}, "zh": {}, "en": {}}
    print(f"{'file':<44} {'rows':>7} {'clean':>7} {'kept':>7}")
    for name, source in sources.items():
        for path in files_of(root, source):
            file, language = path.relative_to(root).as_posix(), path.parent.name
            if language not in LABELS:
                continue
            rows = raw_rows(path, source)
            labeled = [(record_id(name, file, number), text) for number, text in rows if LABELS[language](text)]
            print(f"{file:<44} {len(rows):>7} {len(labeled):>7} {sum(i in kept for i, _ in labeled):>7}")
            for identifier, text in labeled:
                group = "zh_short" if language == "zh" and len(text.strip()) in NUM_SHORT else language
                folded = "".join(text.lower().split())
                clean[group][folded] = clean[group].get(folded, False) or identifier in kept
    for group, texts in clean.items():
        print(f"{group}: {sum(texts.values())} of {len(texts)} different clean texts kept")
    return {f"kept_{group}": sum(texts.values()) / max(1, len(texts)) for group, texts in clean.items()}


def main() -> None:
    """Print what each stage says, and the results as one line of JSON at the end."""
    if not corpora.DATA.is_dir():
        sys.exit(f"The public sets in {corpora.DATA} are missing: not measured.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.environ.get("OWN_DATA_FOLDER", folder))  # a folder of the user's is kept, to look at it
        project_copy.copy_project(root)
        copy_sets(root)
        sources = preview(root)
        write_params(root, sources)
        exit_code, _ = run(root, "flows.pipeline")
        results: dict[str, Any] = {}
        if (root / "data/reports/dpo.json").is_file():
            missing = unreported_by_ingestion(root, sources) + unreported_later(root)
            print(f"unreported: {dict(missing)}")
            results = {**kept_shares(root, sources), "unreported": missing.total()}
    print(json.dumps({**results, "exit": exit_code}))


if __name__ == "__main__":
    main()
