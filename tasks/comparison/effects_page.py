"""An ablation as Markdown: the verdict on each change, then its effect on every metric and its cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.pages.markdown import table

COLUMNS = ("change", "verdict", "baseline", "changed", "difference", "95 % interval", "p (Holm)", "items")
COSTS = ("run", "train documents", "weights", "tokens per run", "seconds", "FLOPs of training")


def markdown(result: Mapping[str, Any]) -> str:
    """The page. result: what `python -m flows.ablation --json` prints."""
    lines = [
        "# Ablation", "",
        f"{len(result['arms'])} changes of params.yaml, each compared with the same baseline; {result['seeds']} seeds; "
        f"trained up to {result['to']} with {result['proxy']}.", "",
        f"Test set: {', '.join(f'{count:,} {name}' for name, count in result['test'].items())} of the baseline, the "
        "same for all runs. A difference is that of the changed run minus the baseline.", "",
    ]  # fmt: skip
    lines += [f"- {sentence}" for sentence in headlines(result)]
    for metric in result["metrics"]:
        ratio = result["signal_to_noise"].get(metric)
        about = "" if ratio is None else f"Signal-to-noise ratio: {ratio:.3g}."
        lines += ["", f"## {metric}", "", *table(COLUMNS, _rows(result["arms"], metric)), "", about]
        lines += [
            f"- {arm['change']}: {arm['left_out'][metric]}" for arm in result["arms"] if metric in arm["left_out"]
        ]
    costs = [{"change": "baseline", **result["baseline"]}, *result["arms"]]
    lines += ["", "## Cost of all seeds", "", *table(COSTS, [_cost(run) for run in costs])]
    lines += ["", "The seconds are those of the first time: what several runs share counts for each of them."]
    return "\n".join(lines) + "\n"


def headlines(result: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per change: its verdict on the primary metric."""
    for arm in result["arms"]:
        if (effect := arm["effects"].get(result["primary"])) is None:
            reason = arm["left_out"].get(result["primary"], "it was not measured")
            yield f"{arm['change']} is not comparable with the baseline on {result['primary']}: {reason}."
            continue
        link = {"not comparable": "with", "equivalent": "to"}.get(effect["outcome"], "than")
        yield (
            f"{arm['change']} is {effect['outcome']} {link} the baseline on {result['primary']}: {effect['reason']}."
        )


def _rows(arms: Sequence[Mapping[str, Any]], metric: str) -> Iterator[tuple[str, ...]]:
    for arm in arms:
        if (effect := arm["effects"].get(metric)) is not None:
            bounds = [effect["low"], effect["high"]]
            yield (
                arm["change"], effect["outcome"], f"{effect['baseline_mean']:.4f}", f"{effect['mean']:.4f}",
                f"{effect['difference']:+.4f}", "" if None in bounds else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}",
                f"{effect['p_adjusted']:.3g}", f"{effect['items']:,}",
            )  # fmt: skip


def _cost(run: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f"{run[name]:,.0f}" for name in ("train_documents", "weights", "tokens", "seconds"))
    return (str(run["change"]), *numbers, f"{run['flops']:.2g}")
