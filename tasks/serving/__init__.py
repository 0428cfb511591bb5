"""Serving: many clients at once are answered by one model."""

from tasks.serving.engine import Engine, Full
from tasks.serving.greedy import greedy_answers
from tasks.serving.params import EngineParams
from tasks.serving.ranking_queue import RankingQueue
from tasks.serving.requests import Event, Request, Sampling, TokenLogProb
from tasks.serving.served import ServedModel, load, version

__all__ = [
    "Engine",
    "EngineParams",
    "Event",
    "Full",
    "RankingQueue",
    "Request",
    "Sampling",
    "ServedModel",
    "TokenLogProb",
    "greedy_answers",
    "load",
    "version",
]
