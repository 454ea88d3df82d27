"""Documents as Envoy reads them."""

from __future__ import annotations

import json
from typing import Any


def as_json(document: dict[str, Any]) -> str:
    """A document for Envoy, with the fields in the order given.

    Not YAML, where Envoy's parser takes a bare `n` or `y` for a truth value and PyYAML's does not, and which
    Envoy reads many times more slowly.
    """
    return json.dumps(document, indent=1) + "\n"
