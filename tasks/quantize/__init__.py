"""Quantize: a release's weights in fewer bits, proven to have happened.

`quantize` is the whole step for the store, `quantize_folder` for a plain folder; `plan` decides from headers alone,
`check_coverage` believes only files, and `check_published` checks a release that came quantized.
A scheme is one file in `schemes/`, a method one in `methods/`.
"""

from tasks.quantize.coverage import Coverage, check_coverage
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.plan.resources import Needs
from tasks.quantize.published.check import Published, check_published
from tasks.quantize.record import Record, record_of
from tasks.quantize.run import quantize, quantize_folder
from tasks.schemes import Scheme, scheme, scheme_names

__all__ = [
    "Coverage",
    "Needs",
    "Published",
    "Recipe",
    "Record",
    "Scheme",
    "check_coverage",
    "check_published",
    "quantize",
    "quantize_folder",
    "record_of",
    "scheme",
    "scheme_names",
]
