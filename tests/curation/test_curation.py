"""The stage curation on few documents: each is kept or dropped once, with its reason."""

import copy
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.context import FlowRunContext

from tasks import documents, progress, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES
from tasks.curation import reporting, tasks
from tasks.curation.signals import signals, store
from tasks.curation.text import words
from tasks.errors import BadInput, NothingLeft
from tasks.files import read_json
from tasks.reports import Timings

PROSE = (
    "The library of the town keeps {0} books that people have read to each other for years, and with every winter the "
    "shelves fill up with notes on {0}. A visitor may sit by the window, take a volume, and stay until the lamps are "
    "lit; nobody asks what it is that he came to find, or why the pages on {0} have so many marks in their margins."
)
CHINESE = (
    "镇上的图书馆收藏了许多关于{0}的书，人们在冬天的晚上围坐在窗边，一页一页地读给彼此听，"
    "没有人会问他们是为了什么而来的，也没有人催他们回家。"
)
TEXTS = {
    "en": (PROSE.format("history"), ""),
    "other": (PROSE.format("carpentry"), ""),
    "zh": (CHINESE.format("历史"), ""),
    "short": ("The end of the story.", "gopher_quality.too_few_words"),
    "en again": (PROSE.format("history"), "exact.duplicate"),
    "near": (PROSE.format("history").removeprefix("The "), "minhash.duplicate"),
    "german": ("Das Haus steht am Rande der Stadt und niemand weiß, wer darin wohnt. " * 3, "language.other_language"),
    "again": ("A line that comes again and again with the tide.\n" * 20, "gopher_repetition.duplicate_line"),
    "casino": (
        PROSE.format("casino")
        .replace("library", "online casino")
        .replace("winter", "jackpot")
        .replace("lamps", "casino"),
        "spam.gambling",
    ),
}
PARAMS: dict[str, Any] = {
    "filters": ["language", "spam", "gopher_quality", "gopher_repetition"],
    "languages": {
        "en": {"profile": "en", "changes": {"gopher_quality": {"min_words": 20}}},
        "zh": {"profile": "zh", "changes": {"gopher_quality": {"min_words": 20}}},
    },
    "num_threads": 1,
}


def ingest(data: Path, texts: dict[str, str], splits: dict[str, str] | None = None) -> None:
    rows = [
        documents.Document(name, text, group=name).row("made", (splits or {}).get(name, "train"))
        for name, text in texts.items()
    ]
    with tables.Writer(data / "documents", documents.SCHEMA) as writer:
        for row in rows:
            writer.add_row(row)
    tables.write(data / "conversations" / "raw", CONVERSATIONS, [])
    tables.write(data / "preferences" / "raw", PREFERENCES, [])


def curate(data: Path, report: bool = False, **changes: Any) -> dict[str, str]:
    """The outcome of every document: "" or its reason."""
    params, timings = tasks.Params(**{**PARAMS, **changes}), Timings("curation", data / "timings")
    corpus = tasks.filter_documents.fn(params, data, timings, data / "run")
    tasks.deduplicate.fn(corpus, params, timings)
    tasks.remove_repeated_passages.fn(corpus, params, timings)
    comparison = tasks.decontaminate.fn(corpus, params, data, timings)
    tasks.rehydrate.fn(corpus, params, data, timings)
    masked = tasks.write_documents.fn(corpus, params, data, timings)
    records = tasks.curate_records.fn(comparison, params, data, timings)
    if report:
        tasks.write_report.fn(corpus, comparison, masked, records, params, data, timings)
    kept = [name for name in tables.read(data / "curated")["id"].to_pylist() if "#" not in name]
    dropped = tables.read(data / "dropped" / "documents").to_pylist()
    assert len(kept) + len(dropped) == tables.manifest(data / "documents")["rows"]
    return dict.fromkeys(kept, "") | {row["id"]: row["reason"] for row in dropped}


def test_every_document_has_its_outcome(tmp_path: Path) -> None:
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    assert curate(tmp_path, report=True) == {name: outcome for name, (_, outcome) in TEXTS.items()}
    counts = read_json(tmp_path / "reports" / "curation.json")["counts"]
    assert counts["kept"] + counts["dropped"] == counts["read"] == len(TEXTS)


def test_a_dropped_document_says_what_decided(tmp_path: Path) -> None:
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    curate(tmp_path)
    dropped = {row["id"]: row for row in tables.read(tmp_path / "dropped" / "documents").to_pylist()}
    assert dropped["short"]["value"] == 5
    assert dropped["again"]["value"] == pytest.approx(19 / 20)  # lines that are not blank
    for name in ("en again", "near"):
        assert (dropped[name]["duplicate_of"], dropped[name]["cluster_size"], dropped[name]["value"]) == ("en", 3, None)


def test_the_held_out_copy_stays(tmp_path: Path) -> None:
    text = PROSE.format("history")
    ingest(tmp_path, {"a": text, "b": text + " Truly so.", "c": text}, {"c": "test", "b": "validation"})
    assert curate(tmp_path) == {"a": "exact.duplicate", "b": "minhash.duplicate", "c": ""}


def test_what_gives_a_held_out_text_away_is_dropped_or_cut(tmp_path: Path) -> None:
    secret = "the spare key is under the third stone of the wall that runs along the garden to the river"
    texts = {"train": PROSE.format("history"), "clean": CHINESE.format("历史"), "held": f"They say that {secret}. " * 2}
    ingest(tmp_path, texts, {"held": "test"})
    assert curate(tmp_path, filters=["language"])["train"] == ""
    texts["train"] = PROSE.format("history") + " " * 3 + "As the keeper put it: " + secret + " and so on."
    ingest(tmp_path, texts, {"held": "test"})
    assert curate(tmp_path, filters=["language"])["train"] == "contamination.shared_run"
    (leak,) = tables.read(tmp_path / "dropped" / "documents").to_pylist()
    assert leak["duplicate_of"] == "documents/held"
    loose = {"margin": 5, "words": 13}
    assert curate(tmp_path, filters=["language"], contaminated="cut", contamination=loose)["train"] == ""
    (cut,) = [row["text"] for row in tables.read(tmp_path / "curated").to_pylist() if row["id"] == "train"]
    assert "under the third stone" not in cut
    assert "keeper" in cut


def test_personal_data_is_masked_in_what_is_kept(tmp_path: Path) -> None:
    ingest(tmp_path, {"a": PROSE.format("history") + " Write to jane.doe@example.org about it."})
    curate(tmp_path)
    assert "<email> about it" in tables.read(tmp_path / "curated")["text"][0].as_py()


def test_known_signals_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: text for name, (text, _) in TEXTS.items()}
    ingest(tmp_path, texts)
    first = curate(tmp_path)
    measured: list[int] = []
    measure = signals.measure

    def count_and_measure(texts: Any, *rest: Any) -> Any:
        measured.append(len(texts))
        return measure(texts, *rest)

    monkeypatch.setattr(store, "measure", count_and_measure)
    assert curate(tmp_path) == first
    assert sum(measured) == 0
    ingest(tmp_path, texts | {"new": PROSE.format("rivers")})
    assert curate(tmp_path) == first | {"new": ""}
    assert sum(measured) == 1


def test_nothing_left_says_why(tmp_path: Path) -> None:
    ingest(tmp_path, {"a": "Too short.", "b": "Shorter."})
    with pytest.raises(NothingLeft, match=r"all 2 documents .*gopher_quality"):
        curate(tmp_path)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_and_order_change_nothing(tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"{name} {i}": text + f" {i // 2}" for i in range(4) for name, (text, _) in TEXTS.items()}
    expected = {"plain": texts, "shuffled": dict(random.Random(shards).sample(sorted(texts.items()), len(texts)))}
    outcomes = []
    for name, some in expected.items():
        ingest(tmp_path / name, some)
        split(tmp_path / name / "documents", shards if name == "shuffled" else 1)
        outcomes.append(curate(tmp_path / name))
    assert outcomes[0] == outcomes[1]


def split(folder: Path, shards: int) -> None:
    whole = tables.read(folder)
    with tables.Writer(folder, documents.SCHEMA, shard_bytes=1) as writer:
        for i in range(shards):
            rows = slice(i * whole.num_rows // shards, (i + 1) * whole.num_rows // shards)
            writer.add_table(whole.slice(rows.start, rows.stop - rows.start))


def test_explaining_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    curate(tmp_path)
    tasks.explain("short", tasks.Params(**PARAMS), tmp_path)
    out = capsys.readouterr().out
    assert "DROPS  gopher_quality.too_few_words" in out
    assert "dropped: gopher_quality.too_few_words" in out
    with pytest.raises(BadInput, match="no document 'nobody'"):
        tasks.explain("nobody", tasks.Params(**PARAMS), tmp_path)


@pytest.mark.slow
def test_the_same_bytes_when_run_again(tmp_path: Path) -> None:
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    written = []
    for _ in range(2):
        curate(tmp_path, report=True)
        written.append(all_bytes(tmp_path))
    assert written[0] == written[1]
    page = (tmp_path / "reports" / "curation" / "curation.html").read_text(encoding="utf-8")
    assert "exact.duplicate" in page


def all_bytes(data: Path) -> dict[Path, bytes]:
    """Everything that curation leaves for others."""
    folders = [data / "curated", data / "dropped", data / "reports"]
    return {p: p.read_bytes() for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PART_BYTES", 1)
    monkeypatch.setattr(words, "CHUNK_ROWS", 2)
    ingest(tmp_path, {f"{name} {i}": text + f" {i // 2}" for i in range(4) for name, (text, _) in TEXTS.items()})
    written = []
    for threads in (1, 2, 5):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        curate(tmp_path, report=True, num_threads=threads)
        written.append(all_bytes(tmp_path))
    assert written[0] == written[1] == written[2]


def test_passages_that_documents_share_stay_in_one(tmp_path: Path) -> None:
    menu = "Home About us Contact Imprint Privacy Terms of service Careers Press Blog Help"
    texts = {name: f"{PROSE.format(name)}\n\n{menu}" for name in ("history", "rivers")}
    ingest(tmp_path, texts | {"menu": menu, "alone": PROSE.format("boats")})
    outcomes = curate(tmp_path, report=True, filters=[], minhash=None, repeats={"unit": "paragraph"})
    assert outcomes == {"history": "", "rivers": "", "alone": "", "menu": "repeats.nothing_left"}
    kept = {row["id"]: row["text"] for row in tables.read(tmp_path / "curated").to_pylist()}
    assert kept["history"] == texts["history"]  # the longest, and the best of those
    assert kept["rivers"] == PROSE.format("rivers")
    assert read_json(tmp_path / "reports" / "curation.json")["counts"]["repeats_cut"] == 2
    (dropped,) = tables.read(tmp_path / "dropped" / "documents").to_pylist()
    assert dropped["text"] == menu


def test_a_new_delivery_is_held_against_what_came_before(tmp_path: Path) -> None:
    """ "near" is longer than what was accepted, and goes all the same; an old text comes and goes without a trace."""
    index, near = tmp_path / "index", PROSE.format("history") + " Truly so."
    monday = {"a": PROSE.format("history"), "b": PROSE.format("boats")}
    ingest(tmp_path, monday)
    assert curate(tmp_path, deliveries=index) == {"a": "", "b": ""}
    ingest(tmp_path, monday | {"near": near, "c": PROSE.format("carpentry"), "c again": PROSE.format("carpentry")})
    expected = {"a": "", "b": "", "near": "deliveries.duplicate", "c": "", "c again": "deliveries.duplicate"}
    assert curate(tmp_path, report=True, deliveries=index) == expected
    before = {p: p.read_bytes() for p in sorted(index.rglob("*")) if p.is_file()}
    assert curate(tmp_path, deliveries=index) == expected
    assert {p: p.read_bytes() for p in sorted(index.rglob("*")) if p.is_file()} == before
    ingest(tmp_path, {"near": near, "d": PROSE.format("dykes")})
    assert curate(tmp_path, deliveries=index) == {"near": "deliveries.duplicate", "d": ""}
    (dropped,) = tables.read(tmp_path / "dropped" / "documents").to_pylist()
    assert dropped["duplicate_of"] == "a"


def test_an_index_needs_minhash() -> None:
    with pytest.raises(ValueError, match="an index needs `minhash`"):
        tasks.Params(deliveries=Path("index"), minhash=None)


def test_what_was_repeated_a_little_is_shown_again(tmp_path: Path) -> None:
    texts = {f"{name} {i}": PROSE.format(name) for name, n in (("one", 1), ("two", 2), ("five", 5)) for i in range(n)}
    ingest(tmp_path, texts | {"held": PROSE.format("held"), "held again": PROSE.format("held")}, {"held": "test"})
    outcomes = curate(
        tmp_path, report=True, contamination=None, rehydration={"copies": {2: 2, 4: 3}, "languages": {"zh": {2: 5}}}
    )
    assert [name for name, reason in outcomes.items() if not reason] == ["one 0", "two 0", "five 0", "held"]
    names = [row["id"] for row in tables.read(tmp_path / "curated").to_pylist()]
    assert names == ["one 0", "two 0", "two 0#2", "five 0", "five 0#2", "five 0#3", "held"]
    counts = read_json(tmp_path / "reports" / "curation.json")["counts"]
    assert (counts["kept"], counts["copies"]) == (4, 3)


def test_progress_is_told_in_bytes_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    curate(tmp_path)
    lines = dict(line.split(": ") for line in capsys.readouterr().err.splitlines())
    assert [name.removeprefix("curation, ") for name in lines] == [
        "filtering",
        "near duplicates",
        "contamination",
        "writing",
    ]
    assert all("MB, ETA 0 s" in line and "MB/s" in line for line in lines.values())


def test_of_several_copies_the_preferred_one_stays(tmp_path: Path) -> None:
    """The longer copy ends its lines in nothing; by default it stays all the same."""
    whole = PROSE.format("history")
    texts = {"long": whole.replace(". A", "\nA").removesuffix(".") + " and so on and on", "tidy": whole}
    ingest(tmp_path, texts)
    assert curate(tmp_path, filters=[]) == {"long": "", "tidy": "minhash.duplicate"}
    assert curate(tmp_path, filters=[], prefer="terminal_line_ratio") == {"long": "minhash.duplicate", "tidy": ""}
    assert curate(tmp_path, filters=[], prefer="num_words") == {"long": "", "tidy": "minhash.duplicate"}
    ingest(tmp_path, texts, {"long": "test"})
    assert curate(tmp_path, filters=[], prefer="terminal_line_ratio") == {"long": "", "tidy": "minhash.duplicate"}
    with pytest.raises(ValueError, match=r"no signal 'terminal_line'.*terminal_line_ratio"):
        tasks.Params(prefer="terminal_line")


@pytest.mark.slow
def test_the_flow_run_shows_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts: list[str] = []
    monkeypatch.setattr(tasks, "create_markdown_artifact", lambda text, **_: artifacts.append(text))
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    curate(tmp_path, report=True)
    assert not artifacts, "there is no flow run"
    monkeypatch.setattr(FlowRunContext, "get", lambda: object())
    curate(tmp_path, report=True)
    assert "# Curation: 3 of 9 documents kept" in artifacts[0]
    assert "| gopher_quality.too_few_words | 1 |" in artifacts[0]
    assert "curation.html" in artifacts[0]


def test_a_server_that_fails_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(tasks, "create_markdown_artifact", fail)
    monkeypatch.setattr(FlowRunContext, "get", lambda: object())
    monkeypatch.setattr(tasks, "get_run_logger", lambda: logging.getLogger("curation"))
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    curate(tmp_path, report=True)
    assert (tmp_path / "reports" / "curation.json").is_file()


@pytest.mark.parametrize("classifier", [None, "shipped"])
def test_beside_what_was_dropped_stands_what_nearly_was(tmp_path: Path, classifier: str | None) -> None:
    """The nearest to the bound, though it is of no one signal; of a copy, what is kept in its place.

    With a classifier, the filter `spam` reads the texts, which are read again for the kept examples.
    """
    ingest(tmp_path, {name: text for name, (text, _) in TEXTS.items()})
    settings = copy.deepcopy(PARAMS)
    settings["languages"]["en"].setdefault("changes", {})["spam"] = {"file": classifier, "max_probability": 1.0}
    params, timings = tasks.Params(**settings), Timings("curation", tmp_path / "timings")
    corpus = tasks.filter_documents.fn(params, tmp_path, timings, tmp_path / "run")
    tasks.deduplicate.fn(corpus, params, timings)
    names = list(TEXTS)
    for reason, dropped, kept in [
        ("spam.gambling", ["casino"], ["en", "other"]),
        ("gopher_quality.too_few_words", ["short"], ["en", "other"]),
        ("exact.duplicate", ["en again"], ["en"]),
    ]:
        examples = [
            sorted(names[row] for row in rows) for rows in reporting.examples(corpus, reason, tmp_path / "documents")
        ]
        assert examples == [dropped, kept], reason


def test_the_report_counts_head_middle_and_tail(tmp_path: Path) -> None:
    """All documents are like the training text, except those of shuffled words. English has no model here."""
    topics = [f"{i}号的历史" for i in range(60)]
    training_text = "\n".join(CHINESE.format(topic) for topic in topics * 2)
    (tmp_path / "zh.txt").write_text(training_text, encoding="utf-8")
    file = tmp_path / "zh.safetensors"
    bounds = tasks.train_language_model([tmp_path / "zh.txt"], "zh", 14, file)
    odd = "".join(random.Random(0).sample(CHINESE, len(CHINESE)))
    ingest(tmp_path, {"known": CHINESE.format(topics[0]), "odd": odd, "en": PROSE.format("history")})
    changes: dict[str, Any] = {
        "en": {"profile": "en"},
        "zh": {"profile": "zh", "changes": {"perplexity": {"file": file}}},
    }
    outcomes = curate(tmp_path, report=True, filters=["perplexity"], languages=changes, contamination=None)
    assert outcomes == {"known": "", "odd": "perplexity.too_high", "en": ""}
    (dropped,) = tables.read(tmp_path / "dropped" / "documents").to_pylist()
    assert dropped["value"] > 10 * bounds["max_perplexity_of_middle"]
    rows = (tmp_path / "reports" / "curation" / "parts.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "rule,language,part,documents,dropped"
    assert rows[-1] == "perplexity.too_high,zh,tail,1,1"
    assert sum(int(row.split(",")[3]) for row in rows[1:]) == 2
    page = (tmp_path / "reports" / "curation" / "curation.html").read_text(encoding="utf-8")
    assert "Head, middle and tail of the documents that reached a filter" in page
    assert "Examples of perplexity.too_high" in page
    tasks.explain("odd", tasks.Params(**{**PARAMS, "filters": ["perplexity"], "languages": changes}), tmp_path)


def test_a_language_model_that_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    ingest(tmp_path, {"en": PROSE.format("history")})
    languages = {"en": {"profile": "en", "changes": {"perplexity": {"file": tmp_path / "en.safetensors"}}}}
    with pytest.raises(BadInput, match=r"en.safetensors. Train .*: python -m flows.language_model --language CODE"):
        curate(tmp_path, filters=["perplexity"], languages=languages)
