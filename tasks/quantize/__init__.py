"""Quantization: a release's weights in fewer bits, with proof from the written files.

`quantize` is the whole step for the store and `quantize_folder` for a plain folder. `recipe_of` plans from headers
alone, `check_coverage` reads only the written files, and `check_published` checks a release that its publisher
quantized. A scheme is one file in `tasks/schemes/`; a method is one file in `methods/`.
"""

from tasks.quantize.coverage import Coverage, check_coverage
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.plan.resources import Resources
from tasks.quantize.published.check import Published, check_published
from tasks.quantize.record import QuantizationRecord, quantization_record
from tasks.quantize.run import quantize, quantize_folder, recipe_of, resources_of
from tasks.schemes import Scheme, scheme, scheme_names

__all__ = [
    "Coverage",
    "Published",
    "QuantizationRecord",
    "Recipe",
    "Resources",
    "Scheme",
    "check_coverage",
    "check_published",
    "quantization_record",
    "quantize",
    "quantize_folder",
    "recipe_of",
    "resources_of",
    "scheme",
    "scheme_names",
]
