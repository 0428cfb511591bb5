"""Votes of people: the log on disk, its exchange with Label Studio, and a simulated crowd."""

from tasks.feedback.crowd import Crowd, Member
from tasks.feedback.label_studio import LABELING_CONFIG, from_label_studio, to_label_studio
from tasks.feedback.log import FOLDER, FeedbackLog, erase, read

__all__ = [
    "FOLDER",
    "LABELING_CONFIG",
    "Crowd",
    "FeedbackLog",
    "Member",
    "erase",
    "from_label_studio",
    "read",
    "to_label_studio",
]
