"""A new line: its file and a stub of its suite, written whole or not at all, from what the source says of itself."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from stack.suite_stub import stub
from tasks.evaluate.check_line import check_line
from tasks.source.pinned import Source
from tasks.source.provider import provider_of
from weighbridge.errors import LineExists, LineInvalid
from weighbridge.files import write_whole
from weighbridge.line import NAMES, Line, is_line_name, line_names
from weighbridge.settings import Settings
from weighbridge.source_urls import checked, repo_of
from weighbridge.units import GIB

TEMPLATE = """\
# {name}: {source}
# Every field, with its default: docs/reference/line.md. Check this file with `weighbridge lines`.
source: {source}
admission:
  # As the source says of itself. A release under any other licence is refused.
  licences: {licences}
  architectures: {architectures}
  max_download_gib: {max_download_gib}
# What is made of each release: docs/reference/schemes.md.
schemes: {schemes}
target:
  # GPUs that you own (docs/reference/gpus.md); `host` is this machine's own memory.
  gpus: {gpus}
  # Prompt and answer together, in tokens, and requests at once.
  context: {context}
  concurrency: {concurrency}
engine:
  name: {engine}
suites:
  # The margin is the largest loss that still counts as no worse. Smaller margins take more items.
  - {{name: general/agreement, margin: 0.08}}
  - {{name: general/choice, margin: 0.08}}
  # Your own questions, in eval_suites/regression/{name}.jsonl.
  - {{name: regression/{name}, margin: 0.2}}
rollout:
  # Per cent of the requests, and the shortest time at each step.
  steps: [10, 50, 100]
  hold_seconds: 30
  # The longest time at a step whose requests are too few to decide; with thousands of requests an hour 600 shows more.
  max_hold_seconds: 120
{speed}schedules:
  # An approval starts promote/{name} within seconds in any case.
  release: {{cron: "0 4 * * *", timezone: UTC, active: false}}
  promote: {{cron: "*/10 * * * *", timezone: UTC, active: true}}
"""

ON_A_PROCESSOR = """\
  # A processor computes INT8 in float32 and rounds in between: up to 1.8 times the time per token, measured.
  max_latency_ratio: 4
"""


class LineOptions(BaseModel):
    """What a person chooses for a new line."""

    model_config = ConfigDict(frozen=True)

    source: str
    licences: tuple[str, ...] = ()
    """Allowed; empty: what the source says of itself."""
    schemes: tuple[str, ...] = ("int8",)
    gpus: tuple[str, ...] = ("host",)
    engine: str = "transformers"
    context: int = 2048
    concurrency: int = 4


class NewLine(BaseModel):
    """A line that is ready to be written."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    text: str
    licences: tuple[str, ...]
    size_bytes: int
    """Bytes that a release downloads."""
    suite: Path
    suite_text: str
    """Empty if there is a suite of this name already."""


def plan_line(settings: Settings, name: str, options: LineOptions) -> NewLine:
    """Describe a new line, after the check of everything in it; the source is asked for its small files only.

    Raises:
        LineExists: There is a line of this name.
        LineInvalid: The name or an option cannot be used; all wrong ones are named.
        SourceInvalid, SourceUnknown, SourceUnreachable: The source is no address, is not there, or does not answer.
    """
    path = settings.root / "lines" / f"{name}.yaml"
    where = f"lines/{name}.yaml"
    if not is_line_name(name):
        raise LineInvalid(f"A line cannot be called {name!r}: {NAMES}.", "Choose another name.", where)
    if name in line_names(settings.root / "lines") or os.path.lexists(path):
        raise LineExists(
            f"There is a line called {name} already.",
            f"Change its file, choose another name, or end it first: `weighbridge lines retire {name}`.",
            where,
        )
    source = checked(options.source)
    described = provider_of(settings, repo_of(source)).outline()
    licences = options.licences or ((described.licence,) if described.licence else ())
    if not licences:
        raise LineInvalid(
            "admission.licences: the source names no licence, and none is allowed unasked.",
            f"Read its terms, then name them: `weighbridge lines new {name} --source {source} --licence NAME`.",
            where,
        )
    text = _render(name, source, described, licences, options)
    suite = settings.root / "eval_suites" / "regression" / f"{name}.jsonl"
    line = Line.parse(name, text, path)
    # The suite need not be there yet, and a stub decides nothing.
    problems = [found for found in check_line(line, settings) if not found.what.startswith("suites.")]
    if problems:
        raise LineInvalid("; ".join(found.what.rstrip(".") for found in problems) + ".", problems[0].next_step, where)
    return NewLine(
        name=name,
        path=path,
        text=text,
        licences=licences,
        size_bytes=described.size_bytes,
        suite=suite,
        suite_text="" if suite.exists() else stub(),
    )


def write_line(line: NewLine) -> None:
    """Write the suite's stub, then the line: a kill in between leaves a stub, which the next attempt keeps.

    Raises:
        LineExists: Somebody else made the line meanwhile.
        DiskFull: The disk is full; there is no line.
    """
    if line.suite_text and not line.suite.exists():
        write_whole(line.suite, line.suite_text, 0o666)
    line.path.parent.mkdir(parents=True, exist_ok=True)
    whole = line.path.with_name(f".{line.name}.{secrets.token_hex(4)}")
    try:
        write_whole(whole, line.text, 0o666)
        # Unlike a rename, a link replaces nothing.
        os.link(whole, line.path)
    except FileExistsError:
        raise LineExists(
            f"There is a line called {line.name} already.", "Look at its file.", f"lines/{line.path.name}"
        ) from None
    finally:
        whole.unlink(missing_ok=True)


def _render(name: str, source: str, described: Source, licences: tuple[str, ...], options: LineOptions) -> str:
    architectures = described.config.get("architectures")
    # JSON is YAML, and quotes what comes from outside.
    return TEMPLATE.format(
        name=name,
        source=json.dumps(source) if any(mark in source for mark in "#'\" ") else source,
        licences=json.dumps(list(licences)),
        architectures=json.dumps(architectures if isinstance(architectures, list) else []),
        max_download_gib=max(2, round(described.size_bytes / GIB * 1.5)),
        schemes=json.dumps(list(options.schemes)),
        gpus=json.dumps(list(options.gpus)),
        context=options.context,
        concurrency=options.concurrency,
        engine=json.dumps(options.engine),
        speed=ON_A_PROCESSOR if "host" in options.gpus else "",
    )
