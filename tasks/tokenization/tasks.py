"""Tokenization as Prefect tasks: make a tokenizer, encode each kind of record, write the manifest and the report."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field, model_validator

from tasks import corruption, kept_shares, tables, tokens
from tasks.documents import SPLITS
from tasks.engine import settings
from tasks.errors import BadInput, BadModel, NothingLeft
from tasks.files import MANIFEST, sha256, with_version, write_json
from tasks.reports import Report, Timings

_NO_MIDDLE = (
    "the tokenizer {} has no special tokens for a text with a hole, such as <|fim_prefix|> (Qwen), <fim_prefix> "
    "(StarCoder), ▁<PRE> (CodeLlama) or <｜fim▁begin｜> (DeepSeek). Choose another tokenizer, or set "
    "tokenization.fill_in_middle: false and pretrain.fill_in_middle: 0."
)
RUN = Path(".run")
CountsBySplit = dict[str, dict[str, int]]
"""split -> name of a count -> count"""


class Params(kept_shares.KeptShareParams, frozen=True, extra="forbid"):
    """Which tokenizer to train or load, and how conversations are packed."""

    tokenizer: str | None = Field(
        None, description="A folder or hub name of a tokenizer to use; null trains a new tokenizer."
    )
    new_tokens: int = Field(
        0, ge=0, description="Maximum number of tokens to learn from the corpus and add to `tokenizer`."
    )
    vocab_size: int = Field(
        4096, ge=262, le=1 << 20, description="Tokens of a new tokenizer, including 6 special tokens and 256 bytes."
    )
    fill_in_middle: bool = Field(
        False, description="Whether the tokenizer has the special tokens that pretrain.fill_in_middle needs: they are "
        "added to a new tokenizer (within vocab_size), and searched in `tokenizer`.",
    )  # fmt: skip
    min_frequency: int = Field(2, ge=1, description="Minimum number of occurrences of a pair of tokens to merge it.")
    share: float = Field(
        1.0, gt=0, le=1, description="Share of the train documents and conversations to train the tokenizer on."
    )
    sequence_length: int = Field(256, ge=8, description="Tokens per row into which conversations are packed.")
    too_long: Literal["truncate", "drop"] = Field(
        "truncate", description="Whether conversations longer than a row are truncated at their end or dropped."
    )
    seed: int = Field(0, ge=0, description="Seed of the order in which conversations are packed.")

    @model_validator(mode="after")
    def _has_tokenizer_to_extend(self) -> "Params":
        if self.new_tokens and self.tokenizer is None:
            raise ValueError(
                "new_tokens are added to `tokenizer`, which is null; set `tokenizer`, or set new_tokens to 0 and "
                "choose the size of a new tokenizer by vocab_size"
            )
        return self


@task(cache_policy=NO_CACHE)
def make_tokenizer(params: Params, data: Path, timings: Timings, run: Path = RUN) -> Any:
    """Train a tokenizer on the train split, or load and extend the one of params. It is saved in tokens/tokenizer.

    On a cluster, the words of the documents are counted one shard per task.
    """
    from tasks.tokenization import bpe, merge_training, merging

    folder = _folder(data)
    (folder / MANIFEST).unlink(missing_ok=True)  # from now on the folder is incomplete
    is_local = settings.current().engine == "local"
    with timings.measure("tokenizer"):
        if params.tokenizer is not None:
            tokenizer = bpe.load(params.tokenizer)
            if params.fill_in_middle and corruption.middle_ids(tokenizer) is None:
                raise BadModel(_NO_MIDDLE.format(params.tokenizer))
            if params.new_tokens:
                texts: Iterable[str] = _train_texts(data, params.share)
                if not is_local:
                    bpe.save(folder / "tokenizer", tokenizer)  # for the workers
                    texts = _count_words(data, params.share, folder / "tokenizer", run).mapping()
                tokenizer = merging.extend(tokenizer, texts, params.new_tokens, params.min_frequency)
        else:
            size = params.vocab_size - corruption.NUM_MIDDLE_TOKENS * params.fill_in_middle
            if is_local:
                tokenizer = bpe.train(_train_texts(data, params.share), size, params.min_frequency)
            else:
                counts = _count_words(data, params.share, None, run)
                tokenizer = merge_training.train(counts.table(), size, params.min_frequency)
            if params.fill_in_middle:
                corruption.add_middle_tokens(tokenizer)
        bpe.save(folder / "tokenizer", tokenizer)
    return tokenizer


def load_tokenizer(data: Path) -> Any:
    """Return the tokenizer that a run has made. Raises BadModel."""
    from tasks.tokenization import bpe

    return bpe.load(str(_folder(data) / "tokenizer"))


@task(cache_policy=NO_CACHE)
def encode_documents(tokenizer: Any, data: Path, timings: Timings, run: Path = RUN) -> CountsBySplit:
    """Encode the curated documents as one stream per split, on the engine of the settings. Returns counts."""
    from tasks.tokenization import document_stream

    folder = _folder(data)
    with timings.measure("documents"):
        return document_stream.write_documents(
            tokenizer, folder / "tokenizer", data / "curated", folder / "documents", run
        )


@task(cache_policy=NO_CACHE)
def encode_conversations(tokenizer: Any, params: Params, data: Path, timings: Timings) -> CountsBySplit:
    """Encode the curated conversations as one packed stream per split. Returns counts."""
    from tasks.tokenization import records

    packing = records.Packing(params.sequence_length, params.too_long == "drop", params.seed)
    with timings.measure("conversations"):
        return records.write_conversations(tokenizer, data / "conversations/curated", _folder(data), packing)


@task(cache_policy=NO_CACHE)
def encode_preferences(tokenizer: Any, data: Path, timings: Timings) -> CountsBySplit:
    """Encode the curated preferences as ids of prompt, chosen and rejected answer per split. Returns counts."""
    from tasks.tokenization import records

    with timings.measure("preferences"):
        return records.write_preferences(tokenizer, data / "preferences/curated", _folder(data) / "preferences")


@task(cache_policy=NO_CACHE)
def encode_prompts(tokenizer: Any, data: Path, timings: Timings) -> CountsBySplit:
    """Encode the prompts of conversations and preferences, without their answers. Returns counts."""
    from tasks.tokenization import records

    with timings.measure("prompts"):
        return records.write_prompts(tokenizer, data, _folder(data) / "prompts")


@task(cache_policy=NO_CACHE)
def report(params: Params, tokenizer: Any, counts: dict[str, CountsBySplit], data: Path, timings: Timings) -> None:
    """Write the manifest, which completes the folder, then the report. Raises NothingLeft if no train token exists."""
    if not any(counts[kind].get("train", {}).get("num_tokens") for kind in ("documents", "conversations")):
        raise NothingLeft(
            "The curated data has no train documents and no train conversations. See the report of curation for the "
            "reasons why documents were dropped."
        )
    special = {"document": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    body = {"vocab_size": len(tokenizer), "sequence_length": params.sequence_length, "special": special, **counts}
    body |= {"test": _test_sets(data), tokens.DIGESTS: tokens.digests(_folder(data))}
    write_json(_folder(data) / MANIFEST, with_version("tokens", body))
    written = _make_report(len(tokenizer), counts)
    _add_summary(written, counts, params)
    written.write(data / "reports")
    timings.write()
    kept_shares.check_strict("tokenization", written.warnings, params)


def _test_sets(data: Path) -> dict[str, Any]:
    """Return digests of the test split of each curated table, and of the test files written from it.

    Evaluation compares them with those in the model folders, to detect test data that was trained on.
    """
    curated = {"documents": data / "curated"}
    curated |= {name: data / name / "curated" for name in ("conversations", "preferences")}
    files = (path.relative_to(_folder(data)) for path in _folder(data).rglob("*") if path.is_file())
    return {
        "sets": {name: tables.digest(folder, "test") for name, folder in curated.items() if folder.is_dir()},
        "files": {path.as_posix(): sha256(_folder(data) / path) for path in sorted(files) if "test" in path.parts},
    }


def _make_report(vocab_size: int, counts: dict[str, CountsBySplit]) -> Report:
    rows = [
        (kind, split, name, value)
        for kind, by_split in counts.items()
        for split, by_name in by_split.items()
        for name, value in by_name.items()
    ]
    columns = ("kind", "split", "measure", "value")
    report = Report("tokenization", tables={"counts": [dict(zip(columns, row, strict=True)) for row in rows]})
    report.counts = {f"{kind}_{split}_{name}": value for kind, split, name, value in rows}
    report.scores["vocab_size"] = vocab_size
    for kind, by_split in counts.items():
        train = by_split.get("train", {})
        if train.get("num_bytes") and train.get("num_tokens"):
            report.scores[f"{kind}_bytes_per_token"] = round(train["num_bytes"] / train["num_tokens"], 4)
        if train.get("num_padding") is not None and train.get("num_rows"):
            row_tokens = train["num_tokens"] + train["num_padding"]
            report.scores[f"{kind}_row_filling"] = round(train["num_tokens"] / row_tokens, 4)
        for split in SPLITS:
            if num_truncated := by_split.get(split, {}).get("num_truncated"):
                report.notes.append(
                    f"{kind} ({split}) longer than sequence_length were truncated: {num_truncated} tokens were removed."
                )
        report.notes += _template_notes(kind, by_split)
    return report


def _template_notes(kind: str, by_split: dict[str, dict[str, int]]) -> list[str]:
    """State what the chat template of another model refused, and what was joined for it."""
    num_refused, num_joined = (
        sum(counts.get(name, 0) for counts in by_split.values()) for name in ("num_refused", "num_joined")
    )
    notes = []
    if num_refused:
        notes.append(
            f"{num_refused:,} {kind} are left out, because the chat template of tokenization.tokenizer refuses them; "
            f"their ids and the reasons are in data/tokens/quarantine/{kind}.jsonl."
        )
    if num_joined:
        notes.append(
            f"In {num_joined:,} {kind}, messages were joined by an empty line, because the chat template of "
            "tokenization.tokenizer accepts no system message or no consecutive messages of one role."
        )
    return notes


def _add_summary(report: Report, counts: dict[str, CountsBySplit], params: Params) -> None:
    """Add the line that is printed at the end, and a warning where most tokens or conversations are cut off."""
    parts = []
    for kind, by_split in counts.items():
        train = by_split.get("train", {})
        shown = [name for name in ("num_rows", "num_tokens", "num_truncated", "num_dropped") if train.get(name)]
        if shown:
            words = {"num_truncated": "tokens cut off", "num_dropped": "dropped because they are too long"}
            texts = (f"{train[name]:,} {words.get(name, name.removeprefix('num_'))}" for name in shown)
            parts.append(f"{kind} {', '.join(texts)}")
        report.warnings += _warnings(kind, train, params)
    text = "; ".join(parts)
    report.summary = f"tokenization wrote for training: {text}; see data/reports/tokenization/counts.csv"
    kinds = ("documents", "conversations", "preferences", "prompts")
    names = (*(f"{kind}_train_num_tokens" for kind in kinds), "conversations_train_num_truncated", "vocab_size")
    report.highlights = names


def _warnings(kind: str, train: dict[str, int], params: Params) -> list[str]:
    limit = f"tokenization.sequence_length = {params.sequence_length}"
    warnings = []
    num_tokens, num_cut = train.get("num_tokens", 0), train.get("num_truncated", 0)
    if num_cut and num_tokens < params.min_kept_share * (num_tokens + num_cut):
        share = kept_shares.share_text(num_tokens, num_tokens + num_cut)
        warnings.append(f"The {kind} keep {share} of their tokens; {num_cut:,} are cut off beyond {limit}.")
    num_kept, num_refused = train.get("num_pairs", train.get(f"num_{kind}", 0)), train.get("num_refused", 0)
    if num_refused and num_kept < params.min_kept_share * (num_kept + num_refused):
        warnings.append(f"The chat template refuses {num_refused:,} of {num_kept + num_refused:,} {kind}.")
    num_kept, num_dropped = train.get(f"num_{kind}", 0), train.get("num_dropped", 0)
    if num_dropped and num_kept < params.min_kept_share * (num_kept + num_dropped):
        warnings.append(f"{num_dropped:,} of {num_kept + num_dropped:,} {kind} are dropped: longer than {limit}.")
    return warnings


def _folder(data: Path) -> Path:
    return data / "tokens"


def _train_texts(data: Path, share: float) -> Iterator[str]:
    from tasks.tokenization import records

    num_texts = 0
    for text in records.train_texts(data, share):
        num_texts += 1
        yield text
    _check_not_empty(num_texts, data)


def _count_words(data: Path, share: float, tokenizer: Path | None, run: Path) -> Any:
    """Return the `word_counts.WordCounts` of what `_train_texts` yields."""
    from tasks.tokenization import word_counts

    counts = word_counts.count(data, share, tokenizer, run)
    _check_not_empty(counts.num_texts, data)
    return counts


def _check_not_empty(num_texts: int, data: Path) -> None:
    if not num_texts:
        raise BadInput(
            f"There is no train text in {data}. Run curation; its report states the reasons why documents were dropped."
        )
