"""Rounds of training: votes -> reward model -> better policy -> evaluation -> gate -> champion."""
