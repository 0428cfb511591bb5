"""Tokenization as Prefect tasks: a tokenizer, then every kind of record as ids, then the manifest and the report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field, model_validator

from tasks import tables
from tasks.documents import SPLITS
from tasks.errors import BadInput, NothingLeft
from tasks.files import MANIFEST, sha256, write_json
from tasks.reports import Report, Timings

Counts = dict[str, dict[str, int]]  # by split


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which tokenizer, and how conversations are packed."""

    tokenizer: str | None = Field(None, description="a folder or hub name to take instead of training one")
    new_tokens: int = Field(0, ge=0, description="at most so many are learned from the corpus and added to `tokenizer`")
    vocab_size: int = Field(4096, ge=262, le=1 << 20, description="with 6 special tokens and 256 bytes")
    min_frequency: int = Field(2, ge=1, description="a pair seen less often is not merged")
    share: float = Field(1.0, gt=0, le=1, description="of the train documents and conversations to train on")
    sequence_length: int = Field(256, ge=8, description="tokens of a row that conversations are packed into")
    too_long: Literal["cut", "drop"] = Field("cut", description="what to do with a conversation longer than a row")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _has_what_to_extend(self) -> "Params":
        if self.new_tokens and self.tokenizer is None:
            raise ValueError(
                "new_tokens are added to `tokenizer`, and none is named; vocab_size says how many to train"
            )
        return self


@task(cache_policy=NO_CACHE)
def make_tokenizer(params: Params, data: Path, timings: Timings) -> Any:
    """Train a tokenizer on the train split, or take (and extend) the one of params; saved under tokens/tokenizer."""
    from tasks.tokenization import bpe, merging

    folder = _folder(data)
    (folder / MANIFEST).unlink(missing_ok=True)
    with timings.measure("tokenizer"):
        if params.tokenizer is not None:
            tokenizer = bpe.load(params.tokenizer)
            if params.new_tokens:
                texts = _train_texts(data, params.share)
                tokenizer = merging.extend(tokenizer, texts, params.new_tokens, params.min_frequency)
        else:
            tokenizer = bpe.train(_train_texts(data, params.share), params.vocab_size, params.min_frequency)
        bpe.save(folder / "tokenizer", tokenizer)
    return tokenizer


@task(cache_policy=NO_CACHE)
def encode_documents(tokenizer: Any, data: Path, timings: Timings) -> Counts:
    """Curated documents as one stream per split; what was counted."""
    from tasks.tokenization import records

    with timings.measure("documents"):
        return records.documents(tokenizer, data / "curated", _folder(data) / "documents")


@task(cache_policy=NO_CACHE)
def encode_conversations(tokenizer: Any, params: Params, data: Path, timings: Timings) -> Counts:
    """Curated conversations as one packed stream per split; what was counted."""
    from tasks.tokenization import records

    packing = records.Packing(params.sequence_length, params.too_long == "drop", params.seed)
    with timings.measure("conversations"):
        return records.conversations(tokenizer, data / "conversations/curated", _folder(data), packing)


@task(cache_policy=NO_CACHE)
def encode_preferences(tokenizer: Any, data: Path, timings: Timings) -> Counts:
    """Curated preferences as prompt, chosen and rejected ids per split; what was counted."""
    from tasks.tokenization import records

    with timings.measure("preferences"):
        return records.preferences(tokenizer, data / "preferences/curated", _folder(data) / "preferences")


@task(cache_policy=NO_CACHE)
def encode_prompts(tokenizer: Any, data: Path, timings: Timings) -> Counts:
    """What conversations and preferences ask, without what is answered; what was counted."""
    from tasks.tokenization import records

    with timings.measure("prompts"):
        return records.prompts(tokenizer, data, _folder(data) / "prompts")


@task(cache_policy=NO_CACHE)
def report(params: Params, tokenizer: Any, kinds: dict[str, Counts], data: Path, timings: Timings) -> None:
    """The manifest, last in its folder, then the report. Raises NothingLeft where there is no token to train on."""
    if not any(kinds[kind].get("train", {}).get("num_tokens") for kind in ("documents", "conversations")):
        raise NothingLeft("tokenization found no train documents and no train conversations in the curated data")
    special = {"document": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    body = {"vocab_size": len(tokenizer), "sequence_length": params.sequence_length, "special": special, **kinds}
    write_json(_folder(data) / MANIFEST, {**body, "test": _test_sets(data)})
    _report(len(tokenizer), kinds).write(data / "reports")
    timings.write()


def _test_sets(data: Path) -> dict[str, Any]:
    """What evaluation asks: of each curated table its test split by digest, and the files that were made of them."""
    curated = {"documents": data / "curated"}
    curated |= {name: data / name / "curated" for name in ("conversations", "preferences")}
    files = (path.relative_to(_folder(data)) for path in _folder(data).rglob("*") if path.is_file())
    return {
        "sets": {name: tables.digest(folder, "test") for name, folder in curated.items() if folder.is_dir()},
        "files": {path.as_posix(): sha256(_folder(data) / path) for path in sorted(files) if "test" in path.parts},
    }


def _report(vocab_size: int, kinds: dict[str, Counts]) -> Report:
    measured = [
        (kind, split, name, value)
        for kind, splits in kinds.items()
        for split, counts in splits.items()
        for name, value in counts.items()
    ]
    columns = ("kind", "split", "measure", "value")
    report = Report("tokenization", tables={"counts": [dict(zip(columns, row, strict=True)) for row in measured]})
    report.counts = {f"{kind}_{split}_{name}": value for kind, split, name, value in measured}
    report.scores["vocab_size"] = vocab_size
    for kind, splits in kinds.items():
        train = splits.get("train", {})
        if train.get("num_bytes") and train.get("num_tokens"):
            report.scores[f"{kind}_bytes_per_token"] = round(train["num_bytes"] / train["num_tokens"], 4)
        if train.get("num_padding") is not None and train.get("num_rows"):
            room = train["num_tokens"] + train["num_padding"]
            report.scores[f"{kind}_row_filling"] = round(train["num_tokens"] / room, 4)
        for split in SPLITS:
            if splits.get(split, {}).get("num_cut"):
                cut = splits[split]["num_cut"]
                report.notes.append(f"{cut} tokens of too long {kind} ({split}) were left out: see sequence_length")
    return report


def _folder(data: Path) -> Path:
    return data / "tokens"


def _train_texts(data: Path, share: float) -> Iterator[str]:
    from tasks.tokenization import records

    found = False
    for text in records.train_texts(data, share):
        found = True
        yield text
    if not found:
        raise BadInput(f"there is no train text under {data}: run curation, and see its report for what was dropped")
