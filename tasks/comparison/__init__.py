"""Comparison: two runs item by item, with a verdict for each metric; two versions of the data."""

from tasks.comparison.data_versions import compare as compare_data
from tasks.comparison.data_versions import markdown as data_markdown
from tasks.comparison.data_versions import read as read_data
from tasks.comparison.effects import effects, signal_to_noise
from tasks.comparison.effects_page import markdown as effects_markdown
from tasks.comparison.page import Section, headline, html, markdown
from tasks.comparison.reading import REPORT, Subject, curves, read
from tasks.comparison.verdicts import (
    PRIMARY,
    Outcome,
    Settings,
    Verdict,
    compare,
    examples,
    primary,
    require_common_metrics,
    require_metric,
)

__all__ = [
    "PRIMARY",
    "REPORT",
    "Outcome",
    "Section",
    "Settings",
    "Subject",
    "Verdict",
    "compare",
    "compare_data",
    "curves",
    "data_markdown",
    "effects",
    "effects_markdown",
    "examples",
    "headline",
    "html",
    "markdown",
    "primary",
    "read",
    "read_data",
    "require_common_metrics",
    "require_metric",
    "signal_to_noise",
]
