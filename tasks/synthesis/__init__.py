"""Synthetic data from a stronger model behind any endpoint that speaks the protocol of OpenAI."""

from tasks.synthesis.client import Budget, BudgetSpent, Endpoint
from tasks.synthesis.params import Params
from tasks.synthesis.recipes import Novelty, estimate, run
from tasks.synthesis.replies import ReplyStore

__all__ = ["Budget", "BudgetSpent", "Endpoint", "Novelty", "Params", "ReplyStore", "estimate", "run"]
