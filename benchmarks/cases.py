"""Every file of ../shared/cases with its outcome, compared with the right one, which cases.yaml states.

    make bench NAME=cases

The files are small inputs in the shapes that people have. Formats, files, tables, web pages and archives are read by
their sources; texts are masked and curated, records are checked for contamination, and chats are tokenized.
"""

import importlib
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import yaml

from benchmarks import corpora
from tasks import tables
from tasks.conversations import Conversation, Preference, UnpairedAnswer
from tasks.documents import Document
from tasks.ingestion.labels import StoredRecord, pair_labeled_answers
from tasks.ingestion.record_writer import RecordWriter
from tasks.tables import Quarantined

CASES = corpora.DATA.parent / "cases" / "data"
SAMPLES = {"EN": "Our library stands in the middle of the town", "ZH": "我们的图书馆在城市的中心"}
SOURCES = {
    ".warc": "warc",
    ".html": "html",
    ".xhtml": "html",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
KINDS = {"01": "conversations", "02": "preferences", "08": "conversations"}
Outcome = Iterator[tuple[str, str]]
"""(name of the case, what is wrong with its outcome, "" if it is right)"""


def source_of(path: Path) -> str:
    """Return the source that reads a file by its name; `text` for other names."""
    return next((source for ending, source in SOURCES.items() if ending in path.name.lower()), "text")


def read(path: Path, source: str, **params: Any) -> list[StoredRecord]:
    """Return the records of a file or folder."""
    module = importlib.import_module(f"tasks.ingestion.sources.{source}")
    if "kind" in params and source in ("html", "warc", "markdown"):
        del params["kind"]
    return list(pair_labeled_answers(module.read(module.Params(paths=(str(path),), **params))))


def contains(text: str, parts: str) -> bool:
    """Return whether the text contains all parts, which are separated by ` & `."""
    return all(SAMPLES.get(part.strip(), part.strip()) in text for part in parts.split(" & "))


def fits_messages(messages: list[dict[str, str]], expected: str) -> bool:
    """Return whether messages have the roles and contain the parts of `user: a & b | assistant: c`."""
    turns = [turn.partition(":") for turn in expected.split(" | ")]
    if not turns[0][1]:  # the text of a prompt whatever its roles are
        return contains("\n".join(message["content"] for message in messages), expected)
    return len(turns) == len(messages) and all(
        message["role"] == role.strip() and contains(message["content"], parts.strip())
        for message, (role, _, parts) in zip(messages, turns, strict=True)
    )


def fits(record: StoredRecord, expected: str) -> bool:
    """Return whether a record is as expected."""
    if expected.startswith("refused:"):
        word = expected.removeprefix("refused:").strip()
        return isinstance(record, Quarantined) and contains(f"{record.reason} {record.detail}", word)
    if isinstance(record, Document):
        return record.text.strip() == expected[2:] if expected.startswith("= ") else contains(record.text, expected)
    if isinstance(record, Conversation):
        return fits_messages(cast(list[dict[str, str]], list(record.messages)), expected)
    if isinstance(record, Preference) and expected.count(" > ") == 2:
        prompt, chosen, rejected = expected.split(" > ")
        messages = cast(list[dict[str, str]], list(record.prompt))
        return (
            fits_messages(messages, prompt) and contains(record.chosen, chosen) and contains(record.rejected, rejected)
        )
    return False


def fits_all(records: list[StoredRecord], outcome: Any) -> bool:
    """Return whether all records are as expected, in any order."""
    num_refused = sum(record.num_records for record in records if isinstance(record, Quarantined))
    num_kept = sum(not isinstance(record, Quarantined) for record in records)
    if isinstance(outcome, dict):
        if "count" in outcome:
            return (num_kept, num_refused) == (outcome["count"], 0)
        return (num_kept, num_refused) == (outcome["kept"], outcome["refused"])
    remaining = [record for record in records if not isinstance(record, Quarantined) or record.num_records]
    if len(remaining) != len(outcome):
        # Records of one reason may be stated together.
        return (
            num_kept + num_refused == len(outcome)
            and len({str(line) for line in outcome}) == 1
            and all(fits(record, str(outcome[0])) for record in remaining)
        )
    return all(fits(record, str(expected)) for record, expected in zip(remaining, outcome, strict=True)) or all(
        any(fits(record, str(expected)) for record in remaining) for expected in outcome
    )


def describe(records: list[StoredRecord]) -> str:
    """Return the records in a short form."""
    parts = []
    for record in records[:4]:
        if isinstance(record, Quarantined):
            parts.append(f"refused: {record.reason}: {record.detail[:100]}")
        elif isinstance(record, Document):
            parts.append(repr(record.text[:80]))
        elif isinstance(record, Conversation):
            parts.append(" | ".join(f"{m['role']}: {m['content'][:40]}" for m in record.messages))
        elif isinstance(record, UnpairedAnswer):
            parts.append(f"{record.prompt[-1]['content'][:40]} > {record.is_good}: {record.answer[:40]}")
        else:
            parts.append(f"{record.prompt[-1]['content'][:40]} > {record.chosen[:40]} > {record.rejected[:40]}")
    return f"{len(records)} records: {'; '.join(parts)}"


def read_files(section: str, cases: dict[str, Any]) -> Outcome:
    """Read the files of a section by their sources."""
    for name, entry in cases.items():
        path = CASES / section / name
        if section[:2] in ("01", "02"):
            path /= "a.jsonl"
        case = entry if isinstance(entry, dict) else {"outcome": entry}
        kind = case.get("kind", KINDS.get(section[:2], "documents"))
        try:
            records = read(path, case.get("source") or source_of(path), kind=kind, **case.get("params", {}))
        except Exception as error:  # whatever it is, it is the wrong outcome of this case only
            yield name, f"{type(error).__name__}: {str(error)[:200]}"
            continue
        outcomes = case.get("any") or [case.get("outcome", case)]
        is_right = any(fits_all(records, outcome) for outcome in outcomes)
        yield name, "" if is_right else describe(records)


def mask_personal_data(section: str, _: Any) -> Outcome:
    """Mask each text of the two lists; a text that is in both may be masked or not."""
    from tasks.curation.privacy import pii

    lists = json.loads((CASES / section / "pii.json").read_text(encoding="utf-8"))
    for key, texts in lists.items():
        for text in texts:
            masked = pii.mask(pa.array([text], pa.large_string()), pii.Params.model_validate({}))[0][0].as_py()
            is_ambiguous = all(text in other for other in lists.values())
            is_right = is_ambiguous or (masked == text) == (key == "stay")
            yield f"{key}: {text}", "" if is_right else f"became {masked!r}"


def curate(data: Path, files: list[tuple[Path, str]], **changes: Any) -> dict[str, Counter[str]]:
    """Write the records of the files as ingestion does, and curate them. Return the counts of conversations etc."""
    from flows.runtime import params
    from tasks.curation import tasks
    from tasks.reports import Timings

    with RecordWriter(data, lambda _: "train") as writer:
        for path, kind in files:
            has_split = '"split"' in path.read_text(encoding="utf-8")
            fields = {"split": "split"} if has_split else {}
            for record in read(path, "jsonl", kind=kind, fields=fields, metadata=("name",)):
                writer.add(kind, record)
    settings = tasks.Params.model_validate({**params.load("curation").model_dump(), **changes})
    timings = Timings("curation", data / "timings")
    corpus = tasks.filter_documents.fn(settings, data, timings, data / "run")
    tasks.deduplicate.fn(corpus, settings, timings)
    tasks.remove_repeated_passages.fn(corpus, settings, timings)
    comparison = tasks.decontaminate.fn(corpus, settings, data, timings)
    tasks.rehydrate.fn(corpus, settings, data, timings)
    tasks.write_documents.fn(corpus, settings, data, timings)
    return tasks.curate_records.fn(comparison, settings, data, timings)


def names_in(folder: Path) -> dict[str, str]:
    """Return the name of each document in a table, and why it was dropped."""
    rows = tables.read(folder).to_pylist()
    return {json.loads(row["metadata"])["name"]: str(row.get("drop_reason", row.get("reason", ""))) for row in rows}


def curate_documents(section: str, cases: dict[str, Any]) -> Outcome:
    """Curate all documents with the settings of params.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        curate(Path(folder), [(CASES / section / "docs.jsonl", "documents")])
        kept, dropped = names_in(Path(folder) / "curated"), names_in(Path(folder) / "dropped" / "documents")
    for name, expected in cases.items():
        outcome = "kept" if name in kept else "dropped"
        is_right = expected in ("any", outcome)
        yield name, "" if is_right else f"{outcome} {dropped.get(name, '')}, expected {expected}"


def check_contamination(section: str, cases: dict[str, Any]) -> Outcome:
    """Curate the records of each case without filters, and count contaminated ones or compare what is kept."""
    for name, expected in cases.items():
        files = [(p, p.name.split(".")[-2]) for p in sorted((CASES / section).glob(f"{name}.*.jsonl"))]
        with tempfile.TemporaryDirectory() as folder:
            counts = curate(Path(folder), files, filters=())
            kept = sorted(set(names_in(Path(folder) / "curated")) - set(expected.get("may_keep", ())))
        if "kept" in expected or "kept_count" in expected:
            right_outcome = sorted(expected["kept"]) if "kept" in expected else expected["kept_count"]
            outcome: Any = kept if "kept" in expected else len(kept)
        else:
            [(table, right_outcome)] = expected.items()
            outcome = counts[table]["contamination"] if right_outcome != "any" else "any"
        yield name, "" if outcome == right_outcome else f"{outcome}, expected {right_outcome}"


def tokenize(section: str, _: Any) -> Outcome:
    """Encode the chats with this project's template and the two foreign ones, and decode what is learned."""
    from tasks.tokenization import bpe
    from tasks.tokenization.chat import Encoder

    templates = {"": "", **json.loads((CASES / section / "templates.json").read_text(encoding="utf-8"))}
    texts = [(CASES / section / name).read_text(encoding="utf-8") for name in ("inject.jsonl", "pad.jsonl")]
    for name in ("inject.jsonl", "twoturns.jsonl"):
        for template, source in templates.items():
            tokenizer = bpe.train(texts * 9, 300)
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
            if source:
                tokenizer.chat_template = source
            try:
                for line in (CASES / section / name).read_text(encoding="utf-8").splitlines():
                    messages = json.loads(line)["messages"]
                    [(ids, mask)] = Encoder(tokenizer).encode_conversations([messages])
                    learned = tokenizer.decode(ids[mask == 1])
                    answers = [message["content"] for message in messages if message["role"] == "assistant"]
                    assert all(answer in learned for answer in answers), f"{learned!r} is learned, not {answers}"
                    assert "evil" not in learned, f"{learned!r} is learned: the user speaks as the assistant"
                    special = tokenizer.convert_tokens_to_ids("<|im_start|>")
                    turns = 0 if not source else len(messages)
                    assert list(ids).count(special) == turns, f"{list(ids).count(special)} special tokens, not {turns}"
                yield f"{name} {template}", ""
            except Exception as error:  # it is the wrong outcome of this case only
                yield f"{name} {template}", f"{type(error).__name__}: {str(error)[:200]}"
    documents = read(CASES / section / "pad.jsonl", "jsonl")
    yield "pad.jsonl", "" if len(documents) == 1 else describe(documents)


CHECKS: dict[str, Callable[[str, Any], Outcome]] = {
    "09": mask_personal_data,
    "10": curate_documents,
    "11": check_contamination,
    "12": tokenize,
}


def main() -> None:
    """Print the wrong outcomes, and the results as one line of JSON at the end."""
    if not CASES.is_dir():
        sys.exit(f"The cases in {CASES} are missing: not measured.")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    expected = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    sections = {**expected, "09-pii": None}
    wrong: list[str] = []
    body: dict[str, Any] = {"cases": 0, "right": 0}
    for section in sorted(sections):
        num_cases = num_right = 0
        check: Callable[[str, Any], Outcome] = CHECKS.get(section[:2]) or read_files
        for name, problem in check(section, sections[section]):
            num_cases += 1
            num_right += not problem
            if problem:
                wrong.append(f"{section}/{name}")
                print(f"{section}/{name}: {problem}")
        print(f"{section}: {num_right} of {num_cases} right")
        body["cases"] += num_cases
        body["right"] += num_right
    print(json.dumps({**body, "wrong": wrong}, ensure_ascii=False))


if __name__ == "__main__":
    main()
