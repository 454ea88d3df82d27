"""The quick look right after quantization: is this still the same model, before hours of evaluation are spent on it?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.evaluate.drift.distributions import (
    CONTEXT_TOKENS,
    Progress,
    distribution_signals,
    measure_distributions,
)
from tasks.evaluate.drift.held_out import HeldDocument
from tasks.evaluate.drift.intervals import Interval
from tasks.evaluate.drift.report import DriftReport, draw
from tasks.evaluate.drift.signals import DriftSignal, make_signal
from tasks.evaluate.scoring.model_files import read_model_files
from weighbridge.line import Bounds

FACTS = {
    "chat_template": "the chat template",
    "tokenizer": "the tokenizer",
    "generation_config": "the generation config",
}
OF_THE_WRITER = (
    "quantization_config",
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
    "pretraining_tp",
)
"""Fields of config.json that do not say what the model computes, or that quantizing is meant to change."""


def check_drift(
    candidate_folder: Path,
    production_folder: Path,
    *,
    bounds: Bounds,
    confidence: float = 0.95,
    candidate_digest: str = "",
    production_digest: str = "",
    documents: Sequence[HeldDocument] | None = None,
    context_tokens: int = CONTEXT_TOKENS,
    together: bool | None = None,
    progress: Progress | None = None,
    home: Path | None = None,
    same_release: bool = True,
) -> DriftReport:
    """Compare distributions on the held text and the small files, and say whether it is worth going on.

    About 60 CPU-seconds for models of 135 million parameters, a third of them imports. The bounds are for two forms
    of one release: where the candidate is another release than what serves, compare it with its own release as
    published, or set the line's bounds to null.

    Args:
        candidate_folder, production_folder: models as transformers loads them.
        bounds: the line's.
        confidence: one-sided, of each bound.
        candidate_digest, production_digest, documents, context_tokens, together, progress, home: as for
            `measure_distributions`.
        same_release: both are forms of one release, so that nothing in config.json may compute otherwise.

    Returns:
        A report; `stops` says whether the long evaluation could still make the candidate pass.

    Raises:
        ScoringFailed, DiskFull, ModelUnreadable: as for `measure_distributions`.
    """
    changed = what_changed(candidate_folder, production_folder)
    found = measure_distributions(
        candidate_folder,
        production_folder,
        candidate_digest=candidate_digest,
        production_digest=production_digest,
        documents=documents,
        context_tokens=context_tokens,
        together=together,
        progress=progress,
        home=home,
    )
    signals = (
        config_signal(candidate_folder, production_folder, same_release=same_release),
        *distribution_signals(found, bounds, confidence),
    )
    invalid = ""
    if not found.documents and bounds.max_kl_nats is not None:
        shared = found.reading.vocabulary_shared
        invalid = (
            f"no held text is cut into the same tokens by both tokenizers ({shared:.1%} of production's tokens are the "
            f"candidate's too), so next-token distributions are of different things."
        )
    return draw(
        signals,
        candidate_digest=found.candidate_digest,
        production_digest=found.production_digest,
        changed=changed,
        invalid=invalid,
    )


def config_signal(candidate_folder: Path, production_folder: Path, *, same_release: bool) -> DriftSignal:
    """How many fields of config.json that both have say something else, such as the base of the rotary positions.

    Seen by itself because it need not show: a tenth of the base moves SmolLM2 by 0.12 nats on texts of 300 tokens,
    which is within the default bound. Fields that only one has are told by `what_changed` and not counted
    here, since other versions of transformers write other defaults.
    """
    was, now = _computing(production_folder), _computing(candidate_folder)
    fields = sorted(name for name in was.keys() & now.keys() if was[name] != now[name])
    count = float(len(fields))
    return make_signal(
        "config fields changed",
        Interval(count, count, count, 1),
        unit="fields",
        bound=0.0 if same_release else None,
        note=", ".join(fields),
    )


def what_changed(candidate_folder: Path, production_folder: Path) -> tuple[str, ...]:
    """What differs in the small files beside the weights and changes answers, a sentence each; costs milliseconds.

    Raises:
        ModelUnreadable: one of them is not JSON.
    """
    ours, theirs = read_model_files(candidate_folder), read_model_files(production_folder)
    sentences = [
        f"{words[0].upper()}{words[1:]} is another one: {getattr(theirs, field) or 'none'} in production, "
        f"{getattr(ours, field) or 'none'} here."
        for field, words in FACTS.items()
        if getattr(ours, field) != getattr(theirs, field)
    ]
    was, now = _computing(production_folder), _computing(candidate_folder)
    return (
        *sentences,
        *(
            f"config.json: {name} is {_shown(now, name)}, and {_shown(was, name)} in production."
            for name in sorted(was.keys() | now.keys())
            if was.get(name) != now.get(name)
        ),
    )


def _computing(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return {name: value for name, value in content.items() if name not in OF_THE_WRITER}


def _shown(fields: dict[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "not set"
