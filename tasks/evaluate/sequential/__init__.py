"""Deciding item by item: stop looking at a candidate's scores as soon as they settle the question.

`decide` takes paired scores and says non_inferior, regression, inconclusive or invalid, after how many items;
`complete_bounds` judges scores that were all there from the start and need the wider test; `items_needed` and
`power` plan. The method and its error rates: docs/verdict.md.
"""

from tasks.evaluate.sequential.decide import Decision, complete_bounds, decide
from tasks.evaluate.sequential.levels import Levels
from tasks.evaluate.sequential.pairs import Pairs, read_pairs
from tasks.evaluate.sequential.planner import Plan, items_needed, plan, power

__all__ = [
    "Decision",
    "Levels",
    "Pairs",
    "Plan",
    "complete_bounds",
    "decide",
    "items_needed",
    "plan",
    "power",
    "read_pairs",
]
