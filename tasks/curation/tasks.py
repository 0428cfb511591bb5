"""Curation as Prefect tasks: measure and filter documents, deduplicate them, and write what is kept and dropped."""

import os
import sys
from collections import Counter
from collections.abc import Iterable
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
from pydantic import Field, model_validator

from tasks import catalog, kept_shares, tables
from tasks.addresses import Address
from tasks.curation import conversations, explanation, filter_stage, filtering, reporting, shards, text_files
from tasks.curation.arrays import Int64Array
from tasks.curation.classifier import classifier, spam_examples, training
from tasks.curation.contamination import boilerplate, contamination, leaks
from tasks.curation.contamination.contamination import Params as Contamination
from tasks.curation.corpus import CURATED, DROPPED, Corpus, split_precedence, with_first_rows
from tasks.curation.duplicates import deliveries, exact, novelty, out_of_core, redis_index, rehydration, repeated_lines
from tasks.curation.duplicates.minhash import Params as Minhash
from tasks.curation.duplicates.rehydration import Params as Rehydration
from tasks.curation.duplicates.repeated_lines import Params as Repeats
from tasks.curation.language_model import training as language_model
from tasks.curation.privacy import pii
from tasks.curation.privacy.pii import Params as Pii
from tasks.curation.signals.signals import NUMERIC_NAMES
from tasks.curation.text import folding
from tasks.curation.threads import map_in_threads, parallel_consumers
from tasks.errors import BadInput, NothingLeft
from tasks.progress import Progress
from tasks.reports import Report, Timings

RUN, RECORDS = Path(".run"), ("conversations", "preferences")
PART_BYTES = 4 << 20  # bytes of documents that a thread processes at once
Classifiers = training.Params
train_spam_classifier, train_language_model = spam_examples.train, language_model.train_and_save
load_classifier, novel_texts = classifier.load, novelty.novel_texts


class Params(kept_shares.KeptShareParams, frozen=True, extra="forbid"):
    """Settings of curation. A step whose settings are null is skipped."""

    filters: tuple[str, ...] = Field(
        ("language", "spam", "gopher_quality", "gopher_repetition", "fineweb"),
        description="Filters in order; the first one that drops a document gives the reason.",
    )
    languages: dict[str, filtering.Language] = Field(
        default={code: filtering.Language(profile=code) for code in ("en", "zh")},
        min_length=1,
        description="Thresholds by language (ISO 639-1 code): a profile, and changes to it. Documents in other "
        "languages are filtered by the first one.",
    )
    exact: bool = Field(True, description="Drop documents that are equal to another one except for white space.")
    minhash: Minhash | None = Field(
        Minhash.model_validate({}), description="Settings of near-duplicate detection; null skips it."
    )
    deliveries: Address | None = Field(
        None, description="Folder or redis:// address of an index of all documents that earlier runs accepted. New "
        "documents are compared with it, which replaces `exact`; null compares the documents of this run only.",
    )  # fmt: skip
    prefer: str | None = Field(
        None, description="Of several copies, keep the one with the highest value of this signal; null: the longest."
    )
    repeats: Repeats | None = Field(
        None, description="Settings for the removal of lines or paragraphs that several documents share; null skips it."
    )
    rehydration: Rehydration | None = Field(
        None, description="How many copies training receives of documents that were repeated; null: one of each."
    )
    contamination: Contamination | None = Field(
        Contamination.model_validate({}),
        description="Settings for the removal of training text that shares n-grams with held-out text; null skips it.",
    )
    contaminated: Literal["drop", "cut"] = Field(
        "cut",
        description="Cut the shared passages out of contaminated documents, where enough remains, or drop them as a "
        "whole. Contaminated conversations and preferences are always dropped.",
    )
    repeated_records: bool = Field(True, description="Drop conversations and preferences that repeat another one.")
    pii: Pii | None = Field(
        Pii.model_validate({}),
        description="Settings for the masking of personal data in documents, conversations and preferences; null "
        "skips it.",
    )
    num_threads: int = Field(0, ge=0, description="Number of threads; 0 means one per core.")

    @model_validator(mode="after")
    def _every_filter_has_params(self) -> Self:
        filtering.params_by_language(self.languages, self.filters)
        return self

    @model_validator(mode="after")
    def _deliveries_are_compared(self) -> Self:
        if self.deliveries and not self.minhash:
            raise ValueError("deliveries: an index needs `minhash`, whose settings define how documents are compared")
        return self

    @model_validator(mode="after")
    def _signal_exists(self) -> Self:
        if self.prefer is not None and self.prefer not in NUMERIC_NAMES:
            raise ValueError(f"prefer: no signal {self.prefer!r}; {catalog.suggest(self.prefer, NUMERIC_NAMES)}")
        return self

    def threads(self) -> int:
        """Return the number of threads to use."""
        return self.num_threads or os.cpu_count() or 1


@task(cache_policy=NO_CACHE)
def filter_documents(params: Params, data: Path, timings: Timings, run: Path = RUN) -> Corpus:
    """Measure every document and apply the filters. Raises BadInput if there are no records."""
    folder, scratch = data / "documents", run / "curation"
    files = shards.CorpusFiles(filtering.params_by_language(params.languages, params.filters), scratch)
    rows, size = tables.manifest(folder)["rows"], tables.num_bytes(folder)
    if not rows and not any(tables.manifest(data / name / "raw")["rows"] for name in RECORDS):
        raise BadInput(f"{folder} contains no documents. Check the sources of ingestion in params.yaml.")
    with timings.measure("judge"), ThreadPoolExecutor(1) as background, _progress("filtering", size) as progress:

        def on_progress(num_documents: int) -> None:
            progress.advance(num_documents * size // max(1, rows))
            # The next steps need the fold table. It is built (once) while kernels run without Python's lock.
            background.submit(folding.fold_table)

        filtered = filter_stage.filtered_parts(
            folder, params.languages, params.filters, PART_BYTES, run, params.threads(), on_progress
        )
        texts = text_files.write(scratch / shards.TEXTS_FILE, files.kept_texts(filtered))
    return files.corpus(texts)


@task(cache_policy=NO_CACHE)
def deduplicate(corpus: Corpus, params: Params, timings: Timings) -> None:
    """Drop exact and near duplicates. If a cluster contains held-out documents, one of these is kept.

    With `deliveries`, the results of earlier runs do not change, and new documents are compared with earlier ones. A
    banding of MinHash that misses similar documents causes a warning, which is also in the report.
    """
    if params.minhash and (warning := params.minhash.low_recall_warning()):
        corpus.notes.append(warning)
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if params.deliveries and params.minhash:
        with timings.measure("deliveries"):
            rows, texts = corpus.remaining()
            priority, ids = corpus.priority(rows, params.prefer), corpus.column("id", rows).combine_chunks()
            comparison = texts, ids, params.minhash, priority, params.threads()
            if "://" not in params.deliveries:
                duplicate_of = deliveries.deduplicate(Path(params.deliveries), *comparison)
            else:
                duplicate_of = redis_index.deduplicate(params.deliveries, *comparison)
            corpus.drop_indexed(rows, duplicate_of, "deliveries.duplicate")
        return
    if params.exact:
        with timings.measure("exact"):
            rows, texts = corpus.remaining()
            priority, names = corpus.priority(rows, params.prefer), corpus.ids_of(rows)
            copy_of = exact.duplicates(texts, priority, names, params.threads())
            corpus.drop_copies(rows, copy_of, "exact.duplicate")
    if params.minhash:
        with timings.measure("minhash"):
            rows, texts = corpus.remaining()
            priority, names = corpus.priority(rows, params.prefer), corpus.ids_of(rows)
            with _progress("near duplicates", corpus.num_bytes(rows)) as progress:
                copy_of, _ = out_of_core.duplicates(
                    texts, corpus.texts_file, params.minhash, priority, names, params.threads(), progress.advance
                )
            corpus.drop_copies(rows, copy_of, "minhash.duplicate")


@task(cache_policy=NO_CACHE)
def remove_repeated_passages(corpus: Corpus, params: Params, timings: Timings) -> None:
    """Remove passages that several documents share from all but one. Drop documents that become empty."""
    if params.repeats is None:
        return
    with timings.measure("repeats"):
        rows, texts = corpus.remaining()
        priority, ids = corpus.priority(rows, params.prefer), corpus.column("id", rows)
        passages = repeated_lines.repeated_passages(texts, params.repeats, priority, ids)
        corpus.counts["repeats_cut"] = len(passages)
        if len(passages):
            corpus.replace_texts(rows, repeated_lines.remove_passages(texts, passages), "repeats.nothing_left")


@task(cache_policy=NO_CACHE)
def decontaminate(corpus: Corpus, params: Params, data: Path, timings: Timings) -> leaks.Comparison | None:
    """Index all held-out text. Cut what train documents share with it, or drop them."""
    if params.contamination is None:
        return None
    with timings.measure("contamination"):
        rows, texts = corpus.remaining()
        held_out = corpus.split_precedence(rows) > 0
        held_out_texts = texts.filter(pa.array(held_out)).combine_chunks()
        ids = tuple(corpus.column("id", rows[held_out]).to_pylist())
        sets = [contamination.EvaluationSet("documents", ids, held_out_texts)]
        sets += [conversations.held_out_examples(data / name / "raw", name) for name in RECORDS]
        index = contamination.build_index(sets, params.contamination)
        with _progress("contamination", corpus.num_bytes(rows)) as progress:
            survey = boilerplate.survey(texts, index, ~held_out, None, params.threads(), progress.advance)
        of_records = [conversations.survey(data / name / "raw", index, corpus.scratch / name) for name in RECORDS]
        comparison = leaks.Comparison(index, boilerplate.recognize(index, [survey, *of_records]))
        _remove_leaks(corpus, rows, leaks.find(texts, comparison, survey), params)
        corpus.boilerplate = comparison.common.passages(index)
        corpus.counts["boilerplate_passages"] = len(corpus.boilerplate)
    return comparison


def _remove_leaks(corpus: Corpus, rows: Int64Array, contaminated: Iterable[leaks.Leak], params: Params) -> None:
    """Cut the shared passages out of documents `rows`, or drop the documents."""
    for leak in contaminated:
        row, remaining = int(rows[leak.row]), None
        corpus.evidence[row] = f"{leak.hits[0].set_name}/{leak.hits[0].example_id}"
        if params.contamination and params.contaminated == "cut":
            remaining = leaks.remove_passages(corpus.texts[leak.row].as_py(), leak.hits, params.contamination)
        if remaining is None:
            corpus.reasons.drop(row, "contamination.shared_run")
        else:
            corpus.replaced[row] = remaining
            corpus.counts["contamination_cut"] += 1


@task(cache_policy=NO_CACHE)
def rehydrate(corpus: Corpus, params: Params, data: Path, timings: Timings) -> None:
    """Set the number of copies of each document that training receives, by the size of its cluster."""
    settings = params.rehydration
    if settings is None:
        return
    with timings.measure("rehydration"):
        sizes = corpus.cluster_sizes()
        if settings.copies == "measured":
            sizes = _sizes_before_filters(corpus, params, data)
        languages, is_train = corpus.filter_languages, split_precedence(corpus.columns["split"]) == 0
        rules = rehydration.copy_rules(settings, sizes, languages, corpus.filtered)
        corpus.copies = rehydration.copy_counts(sizes, languages, rules, is_train)
        corpus.copy_rules = [{"language": code, **asdict(rule)} for code, group in rules.items() for rule in group]


@task(cache_policy=NO_CACHE)
def write_documents(corpus: Corpus, params: Params, data: Path, timings: Timings) -> Counter[str]:
    """Write curated/ and dropped/documents/ with personal data masked. Return the number of masks of each type."""
    masked: Counter[str] = Counter()
    divide = corpus.make_divider()

    def divide_and_mask(part: tuple[int, pa.Table]) -> tuple[pa.Table, dict[str, int], pa.Table]:
        kept, dropped = divide(part)
        return *_mask(kept, params.pii), dropped

    write_kept = partial(tables.write, data / "curated", CURATED)
    # The dropped documents are rarely read: a low level of compression saves time.
    write_dropped = partial(tables.write, data / "dropped" / "documents", DROPPED, compression_level=1)
    size, rows = int(corpus.signals.num_bytes.sum()), len(corpus.reasons)
    with (
        timings.measure("write"),
        _progress("writing", size) as progress,
        parallel_consumers(write_kept, write_dropped) as (send_kept, send_dropped),
    ):
        parts = with_first_rows(tables.batches(data / "documents", PART_BYTES))
        num_threads = max(1, params.threads() - 1)  # two further threads write
        for kept, counts, dropped in map_in_threads(divide_and_mask, parts, num_threads):
            masked.update(counts)
            progress.advance((kept.num_rows + dropped.num_rows) * size // rows)
            rehydrated = kept
            if corpus.copies is not None:
                rehydrated = rehydration.rehydrate(kept)
                corpus.counts["copies"] += rehydrated.num_rows - kept.num_rows
            send_kept(rehydrated)
            send_dropped(dropped)
    if len(corpus.reasons) and not corpus.kept.any():
        reasons = ", ".join(f"{reason} {count}" for reason, count in corpus.by_reason())
        raise NothingLeft(
            f"Curation dropped all {len(corpus.reasons)} documents ({reasons}). {data / 'dropped' / 'documents'} "
            "contains them with their reasons. Relax the thresholds of these filters in params.yaml."
        )
    return masked


@task(cache_policy=NO_CACHE)
def curate_records(
    comparison: leaks.Comparison | None, params: Params, data: Path, timings: Timings, run: Path = RUN
) -> dict[str, Counter[str]]:
    """Mask personal data, and drop repeated and contaminated records. Return the counts by table and reason.

    Raises NothingLeft if all of one kind were dropped; stages without data of a kind are left out only if it had none.
    """
    settings = conversations.Params(
        exact_duplicates=params.repeated_records, contamination=comparison is not None, pii=params.pii
    )
    with timings.measure("records"):
        counts = {
            name: conversations.curate(
                data / name / "raw", data / name / "curated", data / "dropped" / name, settings,
                run / "curation" / name, comparison,
            )
            for name in RECORDS
        }  # fmt: skip
    for name, by_reason in counts.items():
        if by_reason["read"] and not by_reason["kept"]:
            reasons = ", ".join(f"{key} {n}" for key, n in by_reason.items() if n and key not in ("read", "kept"))
            raise NothingLeft(
                f"Curation dropped all {by_reason['read']} {name} ({reasons}). {data / 'dropped' / name} contains them "
                "with their reasons. Change `contamination` or `repeated_records` under curation in params.yaml."
            )
    return counts


@task(cache_policy=NO_CACHE)
def write_report(
    corpus: Corpus,
    comparison: leaks.Comparison | None,
    masked: Counter[str],
    records: dict[str, Counter[str]],
    params: Params,
    data: Path,
    timings: Timings,
) -> None:
    """Write the report, its figures and its page. Raises NothingLeft if params are strict and too little is kept."""
    with timings.measure("report"):
        report = reporting.build(corpus, masked, records)
        reporting.add_summary(report, corpus, records, params)
        report.notes += corpus.notes
        if comparison is not None:
            report.scores["compared_with"] = _compared_with(comparison.index, data)
        report.write(data / "reports")
        reporting.write_page(data / "reports" / "curation", corpus, report, data / "documents", records)
        _create_artifact(report, data / "reports" / "curation" / "curation.html")
    timings.write()
    kept_shares.check_strict("curation", report.warnings, params)


@task(cache_policy=NO_CACHE)
def train_classifier(
    name: str, params: training.ClassifierParams, data: Path, report: Report, timings: Timings
) -> None:
    """Train and write the classifier `name`, and add its quality to the report. Raises BadInput."""
    with timings.measure(name):
        trained, probabilities, labels = training.train_and_validate(params)
        trained.save(data / "classifiers" / f"{name}.safetensors")
        training.add_to_report(report, name, probabilities, labels)
        training.compare_documents(report, name, params, data / "documents")


def explain(name: str, params: Params, data: Path) -> None:
    """Print the signals of one document, the decision of every filter, and the result. Raises BadInput."""
    lists = shards.word_lists(params.languages)
    filter_params = filtering.params_by_language(params.languages, params.filters)
    for line in explanation.explain(data, name, lists, filter_params):
        print(line)


def _progress(step: str, num_bytes: int) -> Progress:
    return Progress(f"curation, {step}", num_bytes, "B", scale=True)


def _sizes_before_filters(corpus: Corpus, params: Params, data: Path) -> Int64Array:
    """Return the size of each document's cluster among all documents, including those that filters dropped."""
    parts = (part["text"].combine_chunks() for part in tables.batches(data / "documents"))
    path = corpus.scratch / "all.arrow"
    texts, settings = text_files.write(path, parts), params.minhash or Minhash.model_validate({})
    return out_of_core.duplicates(texts, path, settings, np.zeros(len(texts), np.int64), None, params.threads())[1]


def _mask(table: pa.Table, params: Pii | None) -> tuple[pa.Table, dict[str, int]]:
    """Return the table with personal data masked, and the number of masks of each type."""
    if params is None or not table.num_rows:
        return table, {}
    texts, counts_by_text = pii.mask(table["text"], params)
    counts = {pii_type: int(counts.sum()) for pii_type, counts in counts_by_text.items()}
    return table.set_column(table.schema.get_field_index("text"), "text", texts), counts


def _compared_with(index: contamination.Index, data: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of each evaluation set, and the digest of its curated test split.

    Evaluation compares the latter with the test data that it uses.
    """
    folders = {"documents": data / "curated"} | {name: data / name / "curated" for name in RECORDS}
    return {name: {**about, "test": tables.digest(folders[name], "test")} for name, about in index.describe().items()}


def _create_artifact(report: Report, page: Path) -> None:
    """Show a short form of the report as an artifact of the flow run, if there is one."""
    if FlowRunContext.get() is None:
        return
    try:
        create_markdown_artifact(
            reporting.markdown(report, page), key="curation", description="What curation kept and why"
        )
    except Exception as error:  # the work is done and the report is on disk: no error of a server may fail the stage
        get_run_logger().warning("Prefect could not create the artifact of curation: %s", error)
