"""How often a stage sees its data, and what it leaves out: the summary of its report, and warnings."""

from dataclasses import dataclass

from tasks.kept_shares import share_text
from tasks.reports import Report
from tasks.training.loop.params import LoopParams


@dataclass(frozen=True, slots=True)
class DataUse:
    """The data of a stage.

    unit: of what `num_used` counts, such as "pairs". per_step: how many of them a step takes. num_too_long: how many
    are left out, because they are longer than the param `limit`. num_cut: tokens that were cut off before.
    """

    unit: str
    num_used: int
    per_step: float
    num_too_long: int = 0
    limit: str = ""
    num_cut: int = 0


def describe(report: Report, use: DataUse, params: LoopParams) -> None:
    """Add epochs, the summary and the warnings to the report of a stage."""
    stage, steps = report.stage, report.counts["steps"]
    epochs = steps * use.per_step / max(1, use.num_used)
    report.scores["epochs"] = round(epochs, 3)
    text = f"{stage} trained {steps:,} steps, {epochs:.3g} epochs of {use.num_used:,} {use.unit}"
    num_all = use.num_used + use.num_too_long
    if use.num_too_long:
        share = share_text(use.num_too_long, num_all)
        text += f"; {use.num_too_long:,} {use.unit} ({share}) longer than {use.limit} are left out"
    if use.num_cut:
        text += f"; {use.num_cut:,} tokens were cut off"
    loss = report.scores.get("validation_loss", report.scores.get("loss"))
    if isinstance(loss, float):
        text += f"; {'validation loss' if 'validation_loss' in report.scores else 'loss'} {loss:.4g}"
    report.summary = f"{text}; see data/reports/{stage}"
    report.highlights = ("steps", "epochs", f"too_long_{use.unit}", "loss", "validation_loss", "validation_accuracy")
    if use.num_too_long and use.num_used < params.min_kept_share * num_all:
        report.warnings.append(
            f"{stage} uses {use.num_used:,} of {num_all:,} {use.unit} ({share_text(use.num_used, num_all)}); "
            f"the others are longer than {use.limit}."
        )
    if epochs > params.many_epochs:
        report.warnings.append(
            f"{stage} sees its data {epochs:.3g} times ({use.num_used:,} {use.unit}); beyond {params.many_epochs:g} "
            f"epochs, repeated data hardly help. Decrease `{stage}.steps`, or add data."
        )
