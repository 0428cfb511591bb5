"""Mixtures: how often training reads each source or language, by shares of the tokens.

The rows of a mixture contain one group each: the documents of a group are joined and cut, its conversations are packed
anew. A plan assigns a row to every place of every step before the first step, so that the rows are a pure function of
(seed, step) for any number of processes and after a resume. Each group comes as often as its share demands, spread
evenly: after any number of rows its tokens differ from its share by about one row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, model_validator

from tasks.errors import BadParams
from tasks.tokens import Records, Stream, best_fit, read_records
from tasks.training.language.acceleration import AcceleratedParams
from tasks.training.language.rows import PackedRows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MARGIN = 0.1  # share of rows that are planned beyond the expected number, because conversations fill rows unequally


class MixtureParams(AcceleratedParams, frozen=True):
    """The shares of sources or languages in training, besides the params of the training loop."""

    mixture: dict[str, NonNegativeFloat] | None = Field(
        None, description="Source (or language) -> its share of the tokens that training reads; the shares are "
        "normalized, and 0 leaves a source out. null reads every row equally often.",
    )  # fmt: skip
    mixture_by: Literal["source", "language"] = Field(
        "source", description="What the names of the mixture are: sources of ingestion, or languages. Conversations "
        "have the languages zh, ja, ko and latin, by their script.",
    )  # fmt: skip
    mixture_temperature: float | None = Field(
        None, gt=0, description="Instead of given shares: shares proportional to size^(1 / temperature), so that 1 "
        "keeps the proportions of the data, and a high one gives each source the same share (arXiv:1907.05019).",
    )  # fmt: skip
    max_epochs: float | None = Field(
        None, gt=0, description="How often training may read a source at most; the rest of its share goes to the "
        "others. null sets no limit.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.mixture is not None and self.mixture_temperature is not None:
            raise ValueError("mixture and mixture_temperature are two ways to set the same shares; remove one of them")
        if self.mixture is not None and not sum(self.mixture.values()):
            raise ValueError("mixture: at least one share must be above 0")
        return self

    @property
    def has_mixture(self) -> bool:
        """Whether rows are chosen by a mixture."""
        return any(value is not None for value in (self.mixture, self.mixture_temperature, self.max_epochs))


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Rows of one group each. Row r consists of the segments [firsts[r], firsts[r + 1]) of the stream.

    starts, lengths: position and number of tokens of each segment; sizes: tokens of each row that are inputs;
    group_firsts: the first row of each group, and the number of rows at the end.
    """

    starts: Ints
    lengths: Ints
    firsts: Ints
    sizes: Ints
    group_firsts: Ints

    def row(self, stream: Stream, row: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Return ids, positions and loss mask of a row, as `Stream.row` does."""
        segments = range(self.firsts[row], self.firsts[row + 1])
        parts = [slice(self.starts[i], self.starts[i] + self.lengths[i]) for i in segments]
        columns = (stream.ids, stream.positions, stream.loss_mask)
        ids, positions, mask = (np.concatenate([column[part] for part in parts]) for column in columns)
        return ids, positions, mask


def cut_rows(records: Records, codes: Ints, num_groups: int, length: int) -> GroupedRows:
    """Join the records of each group and cut them into rows of `length` inputs and the target of the last input."""
    rows, sizes, group_firsts = list[list[tuple[int, int]]](), list[int](), [0]
    for group in range(num_groups):
        chosen = np.flatnonzero(codes == group)
        ends = records.lengths[chosen].cumsum()
        total = int(ends[-1]) if len(ends) else 0
        for start in range(0, max(0, total - 1), length):
            end = min(start + length + 1, total)
            first, last = np.searchsorted(ends, [start, end - 1], side="right")
            segments = []
            for place in range(first, last + 1):
                begin = int(ends[place] - records.lengths[chosen[place]])  # of the record, in the joined group
                low, high = max(start, begin), min(end, int(ends[place]))
                segments.append((int(records.starts[chosen[place]]) + low - begin, high - low))
            rows.append(segments)
            sizes.append(end - start - 1)  # the last token is a target only
        group_firsts.append(len(rows))
    return _grouped(rows, sizes, group_firsts)


def pack_rows(records: Records, codes: Ints, num_groups: int, length: int, seed: int) -> GroupedRows:
    """Pack whole records into rows of `length` tokens, those of each group among themselves."""
    rows, sizes, group_firsts = list[list[tuple[int, int]]](), list[int](), [0]
    for group in range(num_groups):
        chosen = np.random.default_rng((seed, group)).permutation(np.flatnonzero(codes == group))
        for row in best_fit(records.lengths[chosen], length):
            segments = [(int(records.starts[chosen[i]]), int(records.lengths[chosen[i]])) for i in row]
            rows.append(segments)
            sizes.append(sum(size for _, size in segments))
        group_firsts.append(len(rows))
    return _grouped(rows, sizes, group_firsts)


def _grouped(rows: list[list[tuple[int, int]]], sizes: list[int], group_firsts: list[int]) -> GroupedRows:
    segments = np.array([segment for row in rows for segment in row], np.int64).reshape(-1, 2)
    firsts = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return GroupedRows(segments[:, 0], segments[:, 1], firsts, np.array(sizes, np.int64), np.array(group_firsts))


def capped_shares(shares: Floats, sizes: Floats, row_sizes: Floats, num_rows: int, max_epochs: float | None) -> Floats:
    """Lower the shares of groups that would be read more than `max_epochs` times; the others receive the rest.

    sizes: tokens of each group; row_sizes: tokens of its average row. Raises BadParams if all groups reach the limit.
    """
    planned: Floats = shares / shares.sum()
    if max_epochs is None:
        return planned
    capped = np.zeros(len(shares), bool)
    for _ in range(len(shares) + 1):
        for _ in range(50):  # the tokens of the run depend on how full the rows of each group are, and so on the shares
            total = num_rows / float((planned / row_sizes).sum())
            planned = np.where(capped, max_epochs * sizes / total, planned)
            rest, free = 1 - planned[capped].sum(), shares * ~capped
            if free.sum() <= 0 or rest < 0:
                available = float((max_epochs * sizes[shares > 0] / row_sizes[shares > 0]).sum())
                raise BadParams(
                    f"max_epochs: {max_epochs:g} allows {int(available)} rows, but the run reads {num_rows}; decrease "
                    "steps or global_batch_size, increase max_epochs, or add data"
                )
            planned = np.where(capped, planned, rest * free / free.sum())
        exceeding = ~capped & (planned * total > max_epochs * sizes * (1 + 1e-9))
        if not exceeding.any():
            break
        capped |= exceeding
    return planned


def plan_rows(rows: GroupedRows, shares: Floats, num_rows: int, seed: int) -> Ints:
    """Return the row for each place of the run, [num_rows].

    Each group reads its rows once per epoch, in an order of its own, at times that are proportional to its tokens so
    far divided by its share; the rows of all groups are merged by time.
    """
    all_rows, all_times = [], []
    groups = [(g, range(rows.group_firsts[g], rows.group_firsts[g + 1])) for g in range(len(shares)) if shares[g] > 0]
    row_sizes = {g: float(rows.sizes[of_group.start : of_group.stop].mean()) for g, of_group in groups}
    total = num_rows / sum(shares[g] / row_sizes[g] for g, _ in groups)
    for group, of_group in groups:
        count = int(shares[group] * total / row_sizes[group] * (1 + MARGIN)) + len(shares) + 8
        orders = [
            np.random.default_rng((seed, group, epoch)).permutation(len(of_group))
            for epoch in range(-(-count // len(of_group)))
        ]
        order = of_group.start + np.concatenate(orders)[:count]
        sizes = rows.sizes[order]
        all_rows.append(order)
        all_times.append((sizes.cumsum() - sizes / 2) / shares[group])
    merged = np.argsort(np.concatenate(all_times), kind="stable")[:num_rows]
    return np.asarray(np.concatenate(all_rows)[merged], np.int64)


class MixedRows(PackedRows):
    """Rows of a stream that are chosen by a mixture."""

    def __init__(
        self, packed: PackedRows, folder: Path, params: Any, batch_rows: int, is_packed: bool, section: str
    ) -> None:
        self.__dict__.update(packed.__dict__)  # the stream, and how it is cut into batches
        records, by = read_records(folder), params.mixture_by
        self.names, codes = records.names[by], np.asarray(records.groups[by], np.int64)
        num_rows = params.steps * batch_rows
        self._is_packed = is_packed
        self.rows = self._make_rows(records, codes, params)
        self.sizes = np.bincount(self._group(np.arange(len(self.rows.sizes))), self.rows.sizes, len(self.names))
        num_rows_of = np.diff(self.rows.group_firsts)
        self.weights = self._weights(params, section)
        used = self.weights > 0
        row_sizes = np.where(num_rows_of > 0, self.sizes / np.maximum(1, num_rows_of), 1.0)
        self.shares = np.zeros(len(used))
        self.shares[used] = capped_shares(
            self.weights[used], self.sizes[used].astype(np.float64), row_sizes[used], num_rows, params.max_epochs
        )
        self.plan = plan_rows(self.rows, self.shares, num_rows, params.seed)

    def _make_rows(self, records: Records, codes: Ints, params: Any) -> GroupedRows:
        arguments = records, codes, len(self.names), self.length
        return pack_rows(*arguments, params.seed) if self._is_packed else cut_rows(*arguments)

    def _weights(self, params: Any, section: str) -> Floats:
        """The requested share of each group, not normalized. Raises BadParams for names that the data does not have."""
        if params.mixture is None:
            exponent = 1 / (params.mixture_temperature or 1.0)
            return np.asarray(np.where(self.sizes > 0, self.sizes**exponent, 0.0), np.float64)
        available = [name for name, size in zip(self.names, self.sizes, strict=True) if size]
        for problem, names in (
            ("has no tokens of", [name for name, weight in params.mixture.items() if weight and name not in available]),
            ("needs a share (0 leaves it out) for", [name for name in available if name not in params.mixture]),
        ):
            if names:
                raise BadParams(
                    f"{section}.mixture {problem} the {params.mixture_by} {', '.join(names)}; the training data has "
                    f"{', '.join(available)}"
                )
        return np.array([params.mixture.get(name, 0.0) for name in self.names], np.float64)

    def _group(self, rows: Ints) -> Ints:
        return np.searchsorted(self.rows.group_firsts, rows, side="right") - 1

    def _chosen(self, place: int) -> int:
        return int(self.plan[place])

    def _read(self, row: int) -> tuple[npt.NDArray[Any], ...]:
        return self.rows.row(self.stream, row)

    def table(self, num_rows: int) -> list[dict[str, Any]]:
        """Requested, planned and real share of the tokens, tokens and epochs of each group after `num_rows` rows."""
        read = self.plan[:num_rows]
        tokens = np.bincount(self._group(read), self.rows.sizes[read], len(self.names))
        columns = zip(self.names, self.weights, self.shares, tokens, self.sizes, strict=True)
        return [
            {
                "name": name,
                "requested_share": round(float(weight / self.weights.sum()), 6),
                "planned_share": round(float(share), 6),
                "share": round(float(num_read / tokens.sum()), 6),
                "tokens": int(num_read),
                "available_tokens": int(size),
                "epochs": round(float(num_read / size), 4) if size else 0.0,
            }
            for name, weight, share, num_read, size in columns
        ]


def mixed(packed: PackedRows, folder: Path, params: Any, is_packed: bool, section: str) -> PackedRows:
    """Return `packed`, or its rows chosen by the mixture of `params` if there is one. Raises BadInput, BadParams."""
    if not params.has_mixture:
        return packed
    return MixedRows(packed, folder, params, params.global_batch_size, is_packed, section)


def add_to_report(rows: PackedRows, tables: dict[str, list[dict[str, Any]]], num_rows: int) -> None:
    """Add the table `mixture` to those of a report of `num_rows` rows, if they were chosen by a mixture."""
    if isinstance(rows, MixedRows):
        tables["mixture"] = rows.table(num_rows)
