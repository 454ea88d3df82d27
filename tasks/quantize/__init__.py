"""Quantize: a release's weights in fewer bits, proven to have happened.

`quantize` is the whole step; `plan` decides from headers alone, `check_coverage` believes only files.
A scheme is one file in `schemes/`, a method one in `methods/`.
"""

from tasks.quantize.coverage import Coverage, check_coverage
from tasks.quantize.plan import Recipe
from tasks.quantize.run import Record, quantize, record_of
from tasks.quantize.schemes import Scheme, scheme, scheme_names

__all__ = [
    "Coverage",
    "Recipe",
    "Record",
    "Scheme",
    "check_coverage",
    "quantize",
    "record_of",
    "scheme",
    "scheme_names",
]
