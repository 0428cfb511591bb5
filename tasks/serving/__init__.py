"""Serving: many clients at once are answered by one model."""

from tasks.serving.engine import Engine, Full
from tasks.serving.feedback import FOLDER as FEEDBACK_FOLDER
from tasks.serving.feedback import FeedbackLog
from tasks.serving.params import EngineParams
from tasks.serving.ranking_queue import RankingQueue
from tasks.serving.requests import Event, Request, Sampling, TokenLogProb
from tasks.serving.served import ServedModel, load, version

__all__ = [
    "FEEDBACK_FOLDER",
    "Engine",
    "EngineParams",
    "Event",
    "FeedbackLog",
    "Full",
    "RankingQueue",
    "Request",
    "Sampling",
    "ServedModel",
    "TokenLogProb",
    "load",
    "version",
]
