"""Curation as Prefect tasks: measure, judge, deduplicate; what is kept, and what is dropped with its reason."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from pydantic import BaseModel, Field, RedisDsn, model_validator

from tasks import catalog, tables
from tasks.curation import conversations, explanation, filtering, reporting, shards, text_files
from tasks.curation.arrays import Int64Array
from tasks.curation.classifier import training
from tasks.curation.contamination import contamination
from tasks.curation.contamination.contamination import Index
from tasks.curation.contamination.contamination import Params as Contamination
from tasks.curation.corpus import CURATED, DROPPED, Corpus, placed, precedence
from tasks.curation.duplicates import deliveries, exact, minhash, redis_index, rehydration, repeated_lines
from tasks.curation.duplicates.minhash import Params as Minhash
from tasks.curation.duplicates.rehydration import Params as Rehydration
from tasks.curation.duplicates.repeated_lines import Params as Repeats
from tasks.curation.privacy import pii
from tasks.curation.privacy.pii import Params as Pii
from tasks.curation.signals.signals import NUMBERS
from tasks.curation.signals.store import Store
from tasks.curation.text import folding
from tasks.curation.threads import map_in_threads, parallel_consumers
from tasks.errors import BadInput, NothingLeft
from tasks.progress import Progress
from tasks.reports import Report, Timings

RUN = Path(".run")
PART_BYTES = 4 << 20  # what a thread measures at once
RECORDS = ("conversations", "preferences")
Teaching = training.Params


class Params(BaseModel, frozen=True, extra="forbid"):
    """Filters in the order in which they are asked; languages by ISO 639-1 code; what is null is left out."""

    filters: tuple[str, ...] = ("language", "spam", "gopher_quality", "gopher_repetition", "fineweb")
    languages: dict[str, filtering.Language] = Field(
        default={code: filtering.Language(profile=code) for code in ("en", "zh")}, min_length=1
    )
    exact: bool = True
    minhash: Minhash | None = Minhash.model_validate({})
    deliveries: RedisDsn | Path | None = None  # the index of all that came before; takes the place of `exact`
    prefer: str | None = None  # of several copies, the one with more of this signal stays; without it, the longest
    repeats: Repeats | None = None  # lines or paragraphs that several documents share
    rehydration: Rehydration | None = None  # copies of what was repeated a little
    contamination: Contamination | None = Contamination.model_validate({})
    contaminated: Literal["drop", "cut"] = "drop"  # what becomes of a document; a record is always dropped
    repeated_records: bool = True  # drop conversations and preferences that repeat another word for word
    pii: Pii | None = Pii.model_validate({})
    num_threads: int = Field(0, ge=0)  # 0: as many as there are cores

    @model_validator(mode="after")
    def _every_filter_has_params(self) -> Self:
        filtering.judges(self.languages, self.filters)
        return self

    @model_validator(mode="after")
    def _deliveries_are_compared(self) -> Self:
        if self.deliveries and not self.minhash:
            raise ValueError("deliveries: an index needs `minhash`, whose params say what is compared")
        return self

    @model_validator(mode="after")
    def _signal_is_known(self) -> Self:
        if self.prefer is not None and self.prefer not in NUMBERS:
            raise ValueError(f"prefer: no signal {self.prefer!r}; {catalog.suggest(self.prefer, NUMBERS)}")
        return self

    def threads(self) -> int:
        """How many threads measure at once."""
        return self.num_threads or os.cpu_count() or 1


@task(cache_policy=NO_CACHE)
def judge(params: Params, data: Path, timings: Timings, run: Path = RUN) -> Corpus:
    """Measure and judge every document, shard by shard. Raises BadInput where there is none."""
    store = Store(shards.lists(params.languages), run / "signals")
    judging = shards.Judging(store, filtering.judges(params.languages, params.filters), params.threads())
    folder, scratch = data / "documents", run / "curation"
    parts, rows, size = tables.batches(folder, PART_BYTES), tables.manifest(folder)["rows"], tables.num_bytes(folder)
    if not rows:
        raise BadInput(f"{folder} holds no document. Check the sources of ingestion in params.yaml.")
    with timings.measure("judge"), ThreadPoolExecutor(1) as beside, _progress("judging", size) as progress:

        def on_progress(documents: int) -> None:
            progress.advance(documents * size // rows)
            beside.submit(folding.table)  # made once, while kernels run: what comes next needs it

        judged = judging.kept_texts(parts, on_progress)
        texts = text_files.write(scratch / "texts.arrow", judged)
    return judging.corpus(texts, scratch)


def _progress(step: str, num_bytes: int) -> Progress:
    return Progress(f"curation, {step}", num_bytes, "B", scale=True)


@task(cache_policy=NO_CACHE)
def deduplicate(corpus: Corpus, params: Params, timings: Timings) -> None:
    """Drop exact, then near duplicates; of a cluster that reaches beyond train, the held-out document stays.

    With `deliveries`, what an earlier run kept stays as it is, and what is new is held against it.
    """
    if params.deliveries and params.minhash:
        with timings.measure("deliveries"):
            rows, texts = corpus.remaining()
            priority, ids = corpus.priority(rows, params.prefer), corpus.column("id", rows).combine_chunks()
            if isinstance(params.deliveries, Path):
                known = deliveries.deduplicate(
                    params.deliveries, texts, ids, params.minhash, priority, params.threads()
                )
            else:
                url = str(params.deliveries)
                known = redis_index.deduplicate(url, texts, ids, params.minhash, priority, params.threads())
            corpus.drop_known(rows, known, "deliveries.duplicate")
        return
    if params.exact:
        with timings.measure("exact"):
            rows, texts = corpus.remaining()
            priority, ids = corpus.priority(rows, params.prefer), corpus.column("id", rows)
            found = exact.duplicates(texts, priority, ids, params.threads())
            corpus.drop_copies(rows, found, "exact.duplicate")
    if params.minhash:
        with timings.measure("minhash"):
            rows, texts = corpus.remaining()
            priority, ids = corpus.priority(rows, params.prefer), corpus.column("id", rows)
            with _progress("near duplicates", corpus.num_bytes(rows)) as progress:
                threads, on_progress = params.threads(), progress.advance
                found, _ = minhash.duplicates(texts, params.minhash, priority, ids, threads, on_progress)
            corpus.drop_copies(rows, found, "minhash.duplicate")


@task(cache_policy=NO_CACHE)
def cut_repeats(corpus: Corpus, params: Params, timings: Timings) -> None:
    """Cut what several documents share out of all but one; drop those of which nothing is left."""
    if params.repeats is None:
        return
    with timings.measure("repeats"):
        rows, texts = corpus.remaining()
        priority, ids = corpus.priority(rows, params.prefer), corpus.column("id", rows)
        gone = repeated_lines.repeated_passages(texts, params.repeats, priority, ids)
        corpus.counts["repeats_cut"] = len(gone)
        if len(gone):
            corpus.change(rows, repeated_lines.remove_passages(texts, gone), "repeats.nothing_left")


@task(cache_policy=NO_CACHE)
def decontaminate(corpus: Corpus, params: Params, data: Path, timings: Timings) -> Index | None:
    """Index everything held out, and drop (or mark for cutting) the train documents that share a run with it."""
    if params.contamination is None:
        return None
    with timings.measure("contamination"):
        rows, texts = corpus.remaining()
        held_out = precedence(corpus.column("split", rows)) > 0
        held_texts = texts.filter(pa.array(held_out)).combine_chunks()
        ids = tuple(corpus.column("id", rows[held_out]).to_pylist())
        sets = [contamination.EvaluationSet("documents", ids, held_texts)]
        sets += [conversations.held_out_examples(data / name / "raw", name) for name in RECORDS]
        index = contamination.build_index(sets, params.contamination)
        with _progress("contamination", corpus.num_bytes(rows)) as progress:
            for hit in contamination.scan(texts, index, ~held_out, params.threads(), progress.advance):
                rest = (
                    contamination.remove_ngrams(texts[hit.row].as_py(), index) if params.contaminated == "cut" else None
                )
                corpus.evidence[rows[hit.row]] = f"{hit.set_name}/{hit.example_id}"
                if rest is None:
                    corpus.reasons[rows[hit.row]] = "contamination.shared_run"
                else:
                    corpus.replaced[int(rows[hit.row])] = rest
    return index


@task(cache_policy=NO_CACHE)
def rehydrate(corpus: Corpus, params: Params, data: Path, timings: Timings) -> None:
    """Choose how often each document is shown to training, by how often it was there."""
    asked = params.rehydration
    if asked is None:
        return
    with timings.measure("rehydration"):
        sizes = corpus.cluster_sizes()
        if asked.copies == "measured":
            sizes = _sizes_before_filters(corpus, params, data)
        steps = rehydration.copy_rules(asked, sizes, corpus.judged_as, corpus.filtered)
        corpus.copies = rehydration.copy_counts(sizes, corpus.judged_as, steps, precedence(corpus.small["split"]) == 0)
        corpus.shown = [{"language": code, **asdict(step)} for code, some in steps.items() for step in some]


def _sizes_before_filters(corpus: Corpus, params: Params, data: Path) -> Int64Array:
    """How many documents each one's cluster has among all that were read, the dropped ones too."""
    parts = (part["text"].combine_chunks() for part in tables.batches(data / "documents"))
    texts = text_files.write(corpus.scratch / "all.arrow", parts)
    priority = np.zeros(len(texts), np.int64)
    return minhash.duplicates(texts, params.minhash or Minhash.model_validate({}), priority, None, params.threads())[1]


@task(cache_policy=NO_CACHE)
def write(corpus: Corpus, index: Index | None, params: Params, data: Path, timings: Timings) -> Counter[str]:
    """Write curated/ and dropped/documents/, personal data masked; how often each kind of it was found."""
    masked: Counter[str] = Counter()
    divide = corpus.divider()

    def masking(part: tuple[int, pa.Table]) -> tuple[pa.Table, dict[str, int], pa.Table]:
        kept, dropped = divide(part)
        return *_masked(kept, params.pii), dropped

    kept_rows = partial(tables.write, data / "curated", CURATED)
    dropped_rows = partial(tables.write, data / "dropped" / "documents", DROPPED, compression_level=1)  # seldom read
    size, rows = int(corpus.signals.num_bytes.sum()), len(corpus.reasons)
    with (
        timings.measure("write"),
        _progress("writing", size) as progress,
        parallel_consumers(kept_rows, dropped_rows) as (keep, drop),
    ):
        parts = placed(tables.batches(data / "documents", PART_BYTES))
        maskers = max(1, params.threads() - 1)  # beside them two threads write
        for some, found, others in map_in_threads(masking, parts, maskers):
            masked.update(found)
            progress.advance((some.num_rows + others.num_rows) * size // rows)
            if corpus.copies is not None:
                copied = rehydration.rehydrate(some)
                corpus.counts["copies"] += copied.num_rows - some.num_rows
                some = copied
            keep(some)
            drop(others)
    if not corpus.kept.any():
        reasons = ", ".join(f"{reason} {count}" for reason, count in corpus.by_reason())
        raise NothingLeft(
            f"curation dropped all {len(corpus.reasons)} documents ({reasons}). "
            f"They stand with their reasons in {data / 'dropped' / 'documents'}; loosen those bounds in params.yaml."
        )
    return masked


@task(cache_policy=NO_CACHE)
def curate_records(index: Index | None, params: Params, data: Path, timings: Timings) -> dict[str, Counter[str]]:
    """Conversations and preferences: drop what repeats, and what gives something held out away; counts by table."""
    asked = conversations.Params(exact_duplicates=params.repeated_records, contamination=index is not None)
    with timings.measure("records"):
        return {
            name: conversations.curate(
                data / name / "raw", data / name / "curated", data / "dropped" / name, asked, index
            )
            for name in RECORDS
        }


def _masked(table: pa.Table, params: Pii | None) -> tuple[pa.Table, dict[str, int]]:
    if params is None or not table.num_rows:
        return table, {}
    texts, found = pii.mask(table["text"], params)
    counts = {kind: int(n.sum()) for kind, n in found.items()}
    return table.set_column(table.schema.get_field_index("text"), "text", texts), counts


@task(cache_policy=NO_CACHE)
def report(
    corpus: Corpus,
    index: Index | None,
    masked: Counter[str],
    records: dict[str, Counter[str]],
    data: Path,
    timings: Timings,
) -> None:
    """Write the report, its figures and its page."""
    with timings.measure("report"):
        body = reporting.build(corpus, masked, records)
        if index is not None:
            body.scores["compared_with"] = _compared_with(index, data)
        body.write(data / "reports")
        reporting.write_page(data / "reports" / "curation", corpus, body, data / "documents")
        _show(body, data / "reports" / "curation" / "curation.html")
    timings.write()


def _show(body: Report, page: Path) -> None:
    """The report in short, as an artifact of the flow run where there is one. A server that fails costs a warning."""
    if FlowRunContext.get() is None:
        return
    try:
        create_markdown_artifact(
            reporting.markdown(body, page), key="curation", description="What curation kept and why"
        )
    except Exception as error:  # whatever a server may answer: the work is done, and its report on disk
        get_run_logger().warning("no artifact of curation: %s", error)


def _compared_with(index: Index, data: Path) -> dict[str, dict[str, Any]]:
    """The sets of the index; of each, what is left of its test split, by which evaluation knows it again."""
    folders = {"documents": data / "curated"} | {name: data / name / "curated" for name in RECORDS}
    return {name: {**about, "test": tables.digest(folders[name], "test")} for name, about in index.describe().items()}


@task(cache_policy=NO_CACHE)
def teach(name: str, lesson: training.Lesson, data: Path, report: Report, timings: Timings) -> None:
    """Train the classifier `name`, write it, and add to the report how good it is. Raises BadInput."""
    with timings.measure(name):
        judge, probabilities, labels = training.teach(lesson)
        judge.save(data / "classifiers" / f"{name}.safetensors")
        training.describe(report, name, probabilities, labels)


def explain(name: str, params: Params, data: Path) -> None:
    """Print one document's signals, what every filter says of them, and what became of it. Raises BadInput."""
    lists, judges = shards.lists(params.languages), filtering.judges(params.languages, params.filters)
    for line in explanation.explain(data, name, lists, judges):
        print(line)
