"""Sequential tests: decide item by item, and stop as soon as a candidate's scores settle the question.

`decide` takes paired scores and says non_inferior, regression, inconclusive or invalid, after how many items;
`judge_complete` judges a suite without interim analyses; `items_needed` and `power` plan. The method and its error
rates: docs/explanation/verdict.md.
"""

from tasks.evaluate.verdict.sequential.complete import Bounds, judge_complete
from tasks.evaluate.verdict.sequential.decide import Decision, decide
from tasks.evaluate.verdict.sequential.levels import Levels
from tasks.evaluate.verdict.sequential.pairs import Pairs, read_pairs
from tasks.evaluate.verdict.sequential.planner import SuiteForecast, forecast, items_needed, power

__all__ = [
    "Bounds",
    "Decision",
    "Levels",
    "Pairs",
    "SuiteForecast",
    "decide",
    "forecast",
    "items_needed",
    "judge_complete",
    "power",
    "read_pairs",
]
