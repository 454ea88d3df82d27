"""The drift check right after quantization: is it still the same model, before hours of scoring are spent on it?"""

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
from tasks.source.published import read_from
from weighbridge.errors import ModelUnreadable, SourceRefused
from weighbridge.line import Bounds

SMALL_FILES = {
    "chat_template": "the chat template",
    "tokenizer": "the tokenizer",
    "generation_config": "the generation config",
}
IGNORED_FIELDS = (
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
"""Fields of config.json that do not affect what the model computes, or that quantizing is meant to change."""


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
    """Compare distributions on the held text and the small files of two models.

    It takes about 60 CPU-seconds for models of 135 million parameters, a third of them imports. The bounds are for two
    forms of one release. Compare a candidate of another release with its own release as published, or set the line's
    bounds to null.

    Args:
        candidate_folder: a model as transformers loads it.
        production_folder: the model to compare with.
        bounds: the line's bounds.
        confidence: one-sided, of each bound.
        candidate_digest: as for `measure_distributions`, like the following.
        production_digest: digest of the other model.
        documents: the text.
        context_tokens: the longest window.
        together: whether both models are in memory at once.
        progress: receives windows done and in all.
        home: the installation's folder.
        same_release: whether both are forms of one release, so that no field of config.json may differ.

    Returns:
        A report; `stops` is true where scoring could not make the candidate pass.

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
    """Number of fields that both config.json have with different values, such as the base of the rotary positions.

    It is a signal of its own because the distributions need not show it: a tenth of the base moves SmolLM2 by 0.12 nats
    on texts of 300 tokens, which is within the default bound. `what_changed` names the fields that only one file has;
    they are not counted here, because other versions of transformers write other defaults.
    """
    before, after = _config_fields(production_folder), _config_fields(candidate_folder)
    fields = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    count = float(len(fields))
    return make_signal(
        "config fields changed",
        Interval(count, count, count, 1),
        unit="fields",
        bound=0.0 if same_release else None,
        note=", ".join(fields),
    )


def what_changed(candidate_folder: Path, production_folder: Path) -> tuple[str, ...]:
    """Differences in the small files that change answers, a sentence each; takes milliseconds.

    Raises:
        ModelUnreadable: one of them is not JSON.
    """
    candidate, production = read_model_files(candidate_folder), read_model_files(production_folder)
    sentences = [
        f"{words[0].upper()}{words[1:]} differs: {getattr(production, field) or 'none'} in production, "
        f"{getattr(candidate, field) or 'none'} here."
        for field, words in SMALL_FILES.items()
        if getattr(candidate, field) != getattr(production, field)
    ]
    before, after = _config_fields(production_folder), _config_fields(candidate_folder)
    return (
        *sentences,
        *(
            f"config.json: {name} is {_shown(after, name)}, and {_shown(before, name)} in production."
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ),
    )


def _config_fields(folder: Path) -> dict[str, Any]:
    try:
        content = read_from(folder, "config.json")
    except SourceRefused as error:
        raise ModelUnreadable(error.what, "Restore the model's file.", where=str(folder)) from None
    return {name: value for name, value in content.items() if name not in IGNORED_FIELDS}


def _shown(fields: dict[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "not set"
