"""Lints a suite before a verdict hangs on it.

`check_suite` tells what is broken (errors: the suite cannot be used, or an item can never be answered right),
what weakens a verdict (warnings) and what margin the suite can decide at all. One file a question: `readers`
(what the items are), `possible` (can they fail, can they pass), `alike` (duplicates), `balance` (one answer
dominating), `history` (what was scored before), `power`.
"""

from tasks.evaluate.suites.lint.check import SuiteCheck, check_suite
from tasks.evaluate.suites.lint.finding import Finding
from tasks.evaluate.suites.lint.power import Power, power_of

__all__ = ["Finding", "Power", "SuiteCheck", "check_suite", "power_of"]
