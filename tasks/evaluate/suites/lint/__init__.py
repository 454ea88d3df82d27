"""Lint of suites, before a verdict depends on them.

`check_suite` reports errors (the suite is unusable, or an item can never pass), warnings (the verdict gets weaker) and
the margin that the suite can decide. One file per question: `readers` (what are the items), `feasibility` (can they
fail and pass), `duplicates`, `balance` (does one answer dominate), `history` (earlier scores), `power`.
"""

from tasks.evaluate.suites.lint.check import SuiteCheck, check_suite
from tasks.evaluate.suites.lint.finding import Finding
from tasks.evaluate.suites.lint.power import Power, power_of

__all__ = ["Finding", "Power", "SuiteCheck", "check_suite", "power_of"]
