"""Mixtures: shares of tokens to .1 %, capped epochs, and rows that are a function of (seed, step) alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tasks import tokens
from tasks.errors import BadParams
from tasks.training.language import mixture
from tasks.training.language.mixture import MixedRows, MixtureParams
from tasks.training.language.rows import PackedRows

LENGTH = 8
LANGUAGES = {"book": "en", "web": "en", "news": "zh"}


def write(folder: Path, sizes: dict[str, list[int]]) -> Path:
    """Write a stream of records; the ids of each source are its number times 1000 plus the number of the record."""
    labels, lists = list[str](), list[Any]()
    for number in range(max(map(len, sizes.values()))):  # the sources take turns, as in a table of several sources
        for code, (name, lengths) in enumerate(sizes.items()):
            if number < len(lengths):
                labels.append(name)
                lists.append(np.full(lengths[number], 1000 * code + number, np.uint32))
    counts = np.array([len(ids) for ids in lists])
    starts = counts.cumsum() - counts
    positions = np.concatenate([np.arange(n, dtype=np.uint32) for n in counts])
    ids = np.concatenate(lists).astype(np.uint16)
    tokens.write_stream(folder, tokens.Stream(ids, positions, np.ones(len(ids), np.uint8)))
    languages = [LANGUAGES[name] for name in labels]
    tokens.write_records(folder, tokens.make_records(starts, counts, {"source": labels, "language": languages}))
    return folder


def rows(folder: Path, is_packed: bool = False, batch: int = 4, micro: int = 2, **params: Any) -> Any:
    """Return the rows of a mixture with `params`."""
    settings = MixtureParams(**{"steps": 1000, **params})
    plain = PackedRows(tokens.read_stream(folder), LENGTH, batch, micro, settings.seed, 0)
    settings = settings.model_copy()
    object.__setattr__(settings, "global_batch_size", batch)
    return mixture.mixed(plain, folder, settings, is_packed, "pretrain")


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    """Write 4,000 tokens of `book`, 40,000 of `web` and 400 of `news`."""
    return write(tmp_path, {"book": [40] * 100, "web": [400] * 100, "news": [4] * 100})


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("shares", [{"book": 0.3, "web": 0.7, "news": 0}, {"book": 5, "web": 4, "news": 1}])
def test_shares_are_exact_to_a_tenth_of_a_percent(folder: Path, shares: dict[str, float], is_packed: bool) -> None:
    if is_packed:
        write(folder, {"book": [3, 5, 7] * 40, "web": [8, 2] * 300, "news": [4] * 100})
    table = rows(folder, is_packed, mixture=shares).table(4000)
    for row in table:
        expected = shares[row["name"]] / sum(shares.values())
        assert row["planned_share"] == pytest.approx(expected, abs=1e-6)
        assert row["share"] == pytest.approx(expected, abs=1e-3)
        assert row["epochs"] == pytest.approx(row["tokens"] / row["available_tokens"], abs=1e-3)


def test_shares_hold_at_every_time_of_the_run(folder: Path) -> None:
    mixed = rows(folder, mixture={"book": 0.3, "web": 0.7, "news": 0})
    for steps in (25, 100, 500):
        share = {row["name"]: row["share"] for row in mixed.table(4 * steps)}
        assert share["book"] == pytest.approx(0.3, abs=1.5 / (4 * steps))


def test_every_row_of_a_source_comes_once_per_epoch(folder: Path) -> None:
    """4,000 tokens are 500 rows (the last has 7 inputs); 600 rows of book alone: each once, then 100 of them again."""
    mixed = rows(folder, mixture={"book": 1, "web": 0, "news": 0}, steps=150)
    assert sorted(np.bincount(mixed.plan).tolist()) == [1] * 400 + [2] * 100
    assert len(set(mixed.plan[:500].tolist())) == 500


def test_a_row_contains_one_source_and_predicts_within_documents(folder: Path) -> None:
    mixed = rows(folder, mixture={"book": 1, "web": 1, "news": 1})
    for step in range(20):
        for batch in mixed.batches(step):
            for ids, positions, targets in zip(batch.ids, batch.positions, batch.targets, strict=True):
                real = ids[(positions > 0) | (ids > 0)]
                assert len({int(token) // 1000 for token in real}) <= 1
                assert all(
                    target in (-100, token) for token, target in zip(ids.tolist(), targets.tolist(), strict=True)
                )


def test_packed_records_are_whole(tmp_path: Path) -> None:
    """Rows of 8 tokens: 5 + 3, 7 and 8 of one source, 6 + 2 of the other."""
    write(tmp_path, {"book": [3, 5, 7, 8], "web": [2, 6]})
    mixed = rows(tmp_path, is_packed=True, mixture={"book": 1, "web": 1}, steps=4)
    sizes = [np.unique(mixed.rows.row(mixed.stream, row)[0], return_counts=True)[1].tolist() for row in range(4)]
    assert sorted(map(sorted, sizes)) == [[2, 6], [3, 5], [7], [8]]


def test_batches_are_a_function_of_seed_and_step(folder: Path) -> None:
    def ids(step: int, **params: Any) -> list[Any]:
        return [
            batch.ids.tolist()
            for batch in rows(folder, mixture={"book": 1, "web": 1, "news": 1}, **params).batches(step)
        ]

    assert ids(7) == ids(7)
    assert ids(7) != ids(8)
    assert ids(7) != ids(7, seed=1)
    joined = [row for part in ids(7, micro=1) for row in part]  # as for more processes
    assert joined == [row for part in ids(7) for row in part]


def test_epochs_are_capped_and_the_rest_goes_to_the_others(folder: Path) -> None:
    """32,000 tokens; news has 399 inputs, so that 4 epochs are 5 % of the run instead of a third."""
    table = {
        row["name"]: row for row in rows(folder, mixture={"book": 1, "web": 1, "news": 1}, max_epochs=4).table(4000)
    }
    assert table["news"]["epochs"] == pytest.approx(4, abs=0.03)
    assert table["book"]["epochs"] <= 4.01
    assert table["news"]["requested_share"] == pytest.approx(1 / 3, abs=1e-6)
    assert table["book"]["share"] == pytest.approx(table["web"]["share"], abs=2e-3)
    with pytest.raises(BadParams, match=r"max_epochs: 0\.1 allows 555 rows, but the run reads 4000; decrease steps"):
        rows(folder, max_epochs=0.1)


def test_temperature(folder: Path) -> None:
    """Sizes of about 1 : 10 : 0.1; at temperature 1 these are the shares, at 2 their roots, 1 : 3.16 : 0.32."""
    table = {row["name"]: row["share"] for row in rows(folder, mixture_temperature=1).table(4000)}
    assert table["web"] / table["book"] == pytest.approx(10, rel=0.01)
    table = {row["name"]: row["share"] for row in rows(folder, mixture_temperature=2).table(4000)}
    assert table["web"] / table["book"] == pytest.approx(10**0.5, rel=0.01)


def test_languages(folder: Path) -> None:
    mixed = rows(folder, mixture={"en": 0.9, "zh": 0.1}, mixture_by="language")
    assert {row["name"]: round(row["share"], 3) for row in mixed.table(4000)} == {"en": 0.9, "zh": 0.1}


def test_without_a_mixture_nothing_changes(folder: Path) -> None:
    assert type(rows(folder)) is PackedRows
    assert isinstance(rows(folder, max_epochs=9), MixedRows)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"mixture": {"book": 1, "wed": 1}},
            "pretrain.mixture has no tokens of the source wed; the training data has book",
        ),
        ({"mixture": {"book": 1}}, r"needs a share \(0 leaves it out\) for the source news, web"),
    ],
)
def test_names_that_do_not_fit_the_data(folder: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParams, match=message):
        rows(folder, **params)


@pytest.mark.parametrize(
    "params", [{"mixture": {"a": 0}}, {"mixture": {"a": 1}, "mixture_temperature": 2}, {"mixture": {"a": -1}}]
)
def test_params_that_contradict(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MixtureParams(**params)
