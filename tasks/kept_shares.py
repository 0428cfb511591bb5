"""What every stage says about what it did not keep: one line at its end, and a warning for each part that lost much."""

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, Field

from tasks.errors import NothingLeft

MAX_WARNINGS = 20  # in the report of a stage; its tables list all parts

Outcome = tuple[int, int, Mapping[str, int]]
"""(number of rows kept, number of rows, reasons of those that are not kept)"""


class KeptShareParams(BaseModel, frozen=True, extra="forbid"):
    """When a stage warns about what it did not keep."""

    min_kept_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A source, file, language or table of which a smaller share is kept is named in a warning.",
    )
    strict: bool = Field(
        False,
        description="Whether a warning about losses ends the command with exit code 4, after everything is written.",
    )


def share_text(part: float, whole: float) -> str:
    """Return `part` / `whole` as a percentage, which is 0 % or 100 % only if it is exactly that."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "less than 1 %"
    return f"{min(99, round(percent)) if part < whole else 100} %"


def list_counts(counts: Mapping[str, int], num_listed: int = 3) -> str:
    """Return the largest counts with their names: `top_4_gram 3,268, too_few_words 12, 3 others 40`."""
    ordered = sorted(((n, name) for name, n in counts.items() if n), key=lambda item: (-item[0], item[1]))
    listed = [f"{name} {n:,}" for n, name in ordered[:num_listed]]
    if other := ordered[num_listed:]:
        listed.append(f"{len(other)} other{'s' if len(other) > 1 else ''} {sum(n for n, _ in other):,}")
    return ", ".join(listed)


def warn_of_low_shares(kind: str, parts: Mapping[str, Outcome], params: KeptShareParams, unit: str) -> list[str]:
    """Return a warning for each part with too few rows kept; the parts that lost most rows come first.

    parts: name of a part, such as a file, -> its outcome. unit: what its rows are, such as "documents".
    """
    warnings: list[tuple[int, str]] = []
    for name, (num_kept, num_rows, reasons) in parts.items():
        if num_rows and (not num_kept or num_kept < params.min_kept_share * num_rows):
            kept = f"{num_kept:,} of {num_rows:,} {unit} ({share_text(num_kept, num_rows)})" if num_kept else "nothing"
            of = "" if num_kept else f" of {num_rows:,} {unit}"
            because = f": {list_counts(reasons)}" if any(reasons.values()) else ""
            warnings.append((num_rows - num_kept, f"The {kind} {name} keeps {kept}{of}{because}."))
    return [text for _, text in sorted(warnings, key=lambda item: (-item[0], item[1]))]


def shorten(warnings: list[str], table: str, max_warnings: int = MAX_WARNINGS) -> list[str]:
    """Return at most `max_warnings` warnings, and in place of the others a sentence that refers to `table`."""
    if len(warnings) <= max_warnings:
        return warnings
    return [*warnings[:max_warnings], f"{len(warnings) - max_warnings} more warnings of this kind: see {table}."]


def check_strict(stage: str, warnings: Iterable[str], params: KeptShareParams) -> None:
    """Raise NothingLeft if params are strict and there is a warning. To be called after the report is written."""
    texts = list(warnings)
    if params.strict and texts:
        raise NothingLeft(
            f"{stage} is strict (`{stage}.strict` in params.yaml) and has {len(texts)} warnings about losses. "
            f"The first: {texts[0]} Everything is written; see data/reports/{stage}.json. "
            f"Correct the data or the params, lower `{stage}.min_kept_share`, or set `{stage}.strict: false`."
        )


def total(counters: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Return the sum of several counters."""
    result: Counter[str] = Counter()
    for counter in counters:
        result.update(counter)
    return result
