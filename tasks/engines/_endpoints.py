"""The HTTP endpoints of an engine: which of them the gateway passes on, and how each is counted.

Whatever `NAME_endpoints.yaml` beside an engine's file does not list under `passes` never reaches an engine: most
engines have endpoints that load other weights, stop everybody's requests or tell other clients' prompts, and each
release has more of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from weighbridge.documents import read_yaml
from weighbridge.errors import DocumentInvalid, PluginInvalid
from weighbridge.validation import first_fault

Counted = Literal["usage", "prompt", "audio", "request"]
"""What a token limit charges; a request always counts as one request.

usage    the tokens that the answer reports; of an answer that reports none, an estimate of prompt and answer
prompt   the tokens that the answer reports; else an estimate of the prompt
audio    the tokens that the answer reports; else an estimate of the recording and the answer
request  no tokens: nothing is computed with the model
"""

PLACE = "{id}"
"""Part of a path that stands for any name."""

Operation = Annotated[str, StringConstraints(pattern=r"^(GET|POST|PUT|DELETE) /[A-Za-z0-9/_{}-]+$")]
Passed = Annotated[str, StringConstraints(pattern=r"^(GET|POST) /v1/[A-Za-z0-9/_{}-]+$")]


class Endpoints(BaseModel):
    """An engine's endpoints, each as `METHOD /path`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """Where the list is from."""
    passes: dict[Passed, Counted]
    """Those that clients may use, all below /v1/."""
    refused: dict[Operation, str]
    """Others that the engine is known to have, each with the reason; those that are not known are refused too."""

    def paths(self, method: str) -> list[str]:
        """Paths that clients may use with a method."""
        return [path for known, path in (operation.split(" ") for operation in self.passes) if known == method]


@cache
def read_endpoints(path: Path) -> Endpoints:
    """Read a list of endpoints.

    Raises:
        PluginInvalid: it is not of this form.
    """
    try:
        return Endpoints.model_validate(read_yaml(path))
    except (ValidationError, DocumentInvalid) as error:
        what = first_fault(error) if isinstance(error, ValidationError) else error.what.rstrip(".")
        raise PluginInvalid(
            f"The list of endpoints cannot be read: {what}.",
            "Correct it; docs/how-to/add-an-engine.md shows one.",
            str(path),
        ) from None


OPENAI = read_endpoints(Path(__file__).with_name("openai_endpoints.yaml"))
"""Of an engine that states none."""
