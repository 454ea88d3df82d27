"""Load an artifact on the meta device, which reads headers and no weights, by transformers' own renaming of modules.

Then the loaded model is asked, not the files: no key is missing, unexpected or of another shape; as many modules are
quantized as planned; head, towers and routers are not, by what the model says they are. A small artifact also answers
a few tokens, since some modules read a weight that a packed layer does not have.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.quantize.plan.roles import roles_of

ANSWERED_BYTES = 2**30
"""Largest release whose artifact answers a few tokens; larger ones would need its weights in memory."""
FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")


class LoadJob(BaseModel):
    """An artifact to load."""

    model_config = ConfigDict(frozen=True)

    artifact: Path
    """Its `config.json` and weights."""
    source: Path
    """The release, whose own faults are not the artifact's."""
    modules: int
    """Planned layers, experts left out: transformers joins those while it loads."""
    source_bytes: int


class Loading(BaseModel):
    """What came of loading an artifact."""

    model_config = ConfigDict(frozen=True)

    loaded: bool
    """False: transformers does not know the architecture, or cannot load the release itself."""
    answered: bool = False
    """Whether it computed the logits of a few tokens, all of them finite."""
    why: str = ""
    """Why it was not loaded; or, of a loaded one, what is wrong with it."""


def prove(job: LoadJob) -> Loading:
    """Load an artifact and its release on the meta device, and compare."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(job.source, trust_remote_code=False)
        model_class = getattr(transformers, (config.architectures or [""])[0])
        _, before = _load(model_class, job.source)
    except Exception as error:
        return Loading(loaded=False, why=f"transformers cannot load the release itself ({_short(error)})")
    try:
        model, after = _load(model_class, job.artifact)
        problem = _problem(model, config.to_dict(), job, before, after)
        del model
        if problem:
            return Loading(loaded=True, why=problem)
        answered = job.source_bytes <= ANSWERED_BYTES
        return Loading(loaded=True, answered=answered, why=_answer(model_class, job.artifact) if answered else "")
    except Exception as error:
        return Loading(loaded=True, why=f"transformers cannot load or run it ({_short(error)})")
    finally:
        gc.collect()


def _load(model_class: Any, folder: Path) -> tuple[Any, dict[str, set[str]]]:
    model, info = model_class.from_pretrained(
        folder, device_map="meta", dtype="auto", output_loading_info=True, local_files_only=True
    )
    # A mismatched key comes with both its shapes.
    return model, {
        fault: {key if isinstance(key, str) else str(key[0]) for key in info.get(fault, ())} for fault in FAULTS
    }


def _problem(
    model: Any, config: dict[str, Any], job: LoadJob, before: dict[str, set[str]], after: dict[str, set[str]]
) -> str:
    for fault in FAULTS:
        modules = {key.rpartition(".")[0] for key in before[fault]}
        new = sorted(key for key in after[fault] if key.rpartition(".")[0] not in modules)
        if new:
            return f"{len(new)} {fault.replace('_', ' ')}, {new[0]} first"
    quantized = {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "quantization_scheme", None) is not None
    }
    if not before["unexpected_keys"] and len(quantized) != job.modules:
        return f"{len(quantized)} modules are quantized where the plan has {job.modules}"
    wide = _full_precision(model, config, quantized)
    return f"{wide} was to stay as published and is quantized" if wide else ""


def _full_precision(model: Any, config: dict[str, Any], quantized: dict[str, Any]) -> str:
    """The first quantized module that is a head, a router, or outside the text model; empty if there is none."""
    head = model.get_output_embeddings()
    roles = roles_of(config, [(name, tuple(tensor.shape)) for name, tensor in model.named_parameters()])
    text = model.get_decoder() if model.config.get_text_config() is not model.config else None
    within = {id(module) for module in text.modules()} if text is not None and text is not model else None
    for name, module in quantized.items():
        outside = within is not None and id(module) not in within
        shape = (module.out_features, module.in_features)
        if module is head or outside or roles.kind(name, shape) in ("head", "router", "tower"):
            return name
    return ""


def _answer(model_class: Any, folder: Path) -> str:
    """What is wrong with the logits of a few tokens; empty if nothing is."""
    import torch

    model = model_class.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
    with torch.no_grad():
        logits = model(torch.arange(1, 9)[None]).logits
    return "" if bool(logits.isfinite().all()) else "its logits are not finite"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
