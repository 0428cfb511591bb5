"""Comparison: two runs item by item, with a verdict for each metric; two versions of the data."""

from tasks.comparison.reading import Subject, curves, read
from tasks.comparison.verdicts import PRIMARY, Outcome, Settings, Verdict, compare, primary

__all__ = ["PRIMARY", "Outcome", "Settings", "Subject", "Verdict", "compare", "curves", "primary", "read"]
