"""Promotion: which model is the champion, decided by a paired comparison and recorded in a log that shows changes."""

from tasks.promotion.aliases import CANDIDATE, CHAMPION, State
from tasks.promotion.decision import Decision, decide, obstacles
from tasks.promotion.final_report import write as write_report
from tasks.promotion.params import Params
from tasks.promotion.promoting import Outcome, final_stage, promote, rollback, root_of, status, update
from tasks.promotion.versions import Version, subject
from tasks.promotion.versions import read as read_version

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "Decision",
    "Outcome",
    "Params",
    "State",
    "Version",
    "decide",
    "final_stage",
    "obstacles",
    "promote",
    "read_version",
    "rollback",
    "root_of",
    "status",
    "subject",
    "update",
    "write_report",
]
