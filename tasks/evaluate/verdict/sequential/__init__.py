"""Deciding item by item: stop looking at a candidate's scores as soon as they settle the question.

`decide` takes paired scores and says non_inferior, regression, inconclusive or invalid, after how many items;
`judge_complete` judges a suite whose scores were all there from the start; `items_needed` and
`power` plan. The method and its error rates: docs/explanation/verdict.md.
"""

from tasks.evaluate.verdict.sequential.complete import Bounds, judge_complete
from tasks.evaluate.verdict.sequential.decide import Decision, decide
from tasks.evaluate.verdict.sequential.levels import Levels
from tasks.evaluate.verdict.sequential.pairs import Pairs, read_pairs
from tasks.evaluate.verdict.sequential.planner import Plan, items_needed, plan, power

__all__ = [
    "Bounds",
    "Decision",
    "Levels",
    "Pairs",
    "Plan",
    "decide",
    "items_needed",
    "judge_complete",
    "plan",
    "power",
    "read_pairs",
]
