"""Drift beside accuracy: how far a candidate's distributions and answers have moved; it gates a release too.

Accuracy on a suite can stand still, or rise by accident, while a model has become another one. These signals measure
the movement itself, each with an interval, and each against a bound in the line (`bounds`). What each is
for, and how the defaults were chosen: docs/evidence/drift.md.
"""

from tasks.evaluate.drift.answers import ItemAnswer, answer_signals, flip_signal, item_answers
from tasks.evaluate.drift.degenerate import degenerate
from tasks.evaluate.drift.distributions import distribution_signals, measure_distributions
from tasks.evaluate.drift.drift_check import check_drift, config_signal, what_changed
from tasks.evaluate.drift.held_out import HeldDocument, held_documents, text_digest
from tasks.evaluate.drift.language import language_of
from tasks.evaluate.drift.report import DriftReport, draw
from tasks.evaluate.drift.signals import DriftSignal

__all__ = [
    "DriftReport",
    "DriftSignal",
    "HeldDocument",
    "ItemAnswer",
    "answer_signals",
    "check_drift",
    "config_signal",
    "degenerate",
    "distribution_signals",
    "draw",
    "flip_signal",
    "held_documents",
    "item_answers",
    "language_of",
    "measure_distributions",
    "text_digest",
    "what_changed",
]
