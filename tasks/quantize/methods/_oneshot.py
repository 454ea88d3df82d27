"""Common code of the calibrated methods: load the model from disk, run llm-compressor's `oneshot`, write the files.

**Memory.** The weights stay in the release's files. compressed-tensors' disk offload reads and casts one decoder layer
at a time, so that float32 needs no float32 copy of the model. Changed weights go to a scratch folder beside the result,
which is removed in the end.

**Files.** `oneshot` could save the model, but in the calibration dtype and in shards of its own. Instead, the release's
files are rewritten: planned layers are packed by compressed-tensors, and everything else is copied byte for byte,
except norms that a smoothing method scaled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.offload import disable_onloading, load_offloaded_model
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.utils import match_named_modules
from llmcompressor import oneshot
from llmcompressor.core import Event, State
from llmcompressor.modifiers import Modifier
from llmcompressor.observers import Observer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tasks.quantize.calibration import calibration_documents, place_of, target_tokens, token_samples
from tasks.quantize.loader_config import write_config
from tasks.quantize.methods._writing import DTYPES, write_weights
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.process.job import Job
from tasks.schemes import scheme
from weighbridge.errors import QuantizationFailed, QuantizationUncovered
from weighbridge.processor import has_fast_bf16

Modifiers = Callable[[QuantizationScheme, list[str]], list[Modifier]]


def calibrate(
    job: Job,
    layer_done: Callable[[], None],
    modifiers: Modifiers,
    *,
    samples: int,
    sample_tokens: int,
    observer: str | None,
    smooths: bool = False,
) -> int:
    """Quantize a release by llm-compressor's modifiers and write it.

    Args:
        job: with the tokenizer in `companions`.
        layer_done: called for each planned layer; those of a decoder layer at once.
        modifiers: makes llm-compressor's modifiers from the scheme and the names to ignore.
        samples, sample_tokens: amount of calibration text; less if the text is shorter, more if `target_tokens`
            requires it.
        observer: llm-compressor's name of the observer of scale ranges; None if the modifiers find them.
        smooths: whether the modifiers change unplanned weights, such as norms.

    Returns:
        Number of calibration tokens used.

    Raises:
        CalibrationInvalid: no text, or one with too few different tokens.
        QuantizationFailed: no tokenizer, or transformers cannot load the release.
        QuantizationUncovered: transformers' Linear layers are not those of the recipe.
    """
    recipe = job.recipe
    assert isinstance(recipe, Recipe), "GGUF has its own method"
    tokenizer = load_tokenizer(job)
    documents = calibration_documents(job.calibration)
    samples = ceil(target_tokens(recipe, samples * sample_tokens) / sample_tokens)
    where = place_of(job.calibration)
    cut = token_samples(tokenizer, documents, samples=samples, sample_tokens=sample_tokens, where=where)
    quantization = scheme(recipe.scheme).compressed_tensors(recipe.group_size)
    scratch = scratch_of(job)
    try:
        model = load_model(job.source, scratch)
        require_same_layers(model, recipe)
        _require_tokens_known(model, cut)
        if observer:
            quantization.weights.observer = _scales_rounded(observer, min(layer.dtype for layer in recipe.layers))
        counter = _LayerCounter(names=[layer.name for layer in recipe.layers], done=layer_done)
        steps = [*modifiers(quantization, list(recipe.ignore)), counter]
        oneshot(model=model, tokenizer=tokenizer, dataset=_batches(cut), recipe=steps, pipeline="sequential")
        compressor = BaseCompressor.get_value_from_registry(recipe.format)
        pack = partial(compressor.compress, scheme=quantization)
        write_weights(recipe, job.source, job.out, model, pack, smooths=smooths)
        write_config(job.source, job.out, recipe)
        return sum(map(len, cut))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_of(job: Job) -> Path:
    """Folder of changed weights until they are written."""
    return job.out.parent / "offloaded"


def load_tokenizer(job: Job) -> PreTrainedTokenizerBase:
    """The release's own tokenizer, with its chat template.

    Raises:
        QuantizationFailed: it is missing or does not load.
    """
    folder = job.companions
    if folder is None:
        raise _no_tokenizer("the job has no folder for it", job.source)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # Tokenizer loaders raise arbitrary errors for damaged files.
        raise _no_tokenizer(str(error).splitlines()[0] if str(error) else type(error).__name__, folder) from error
    return tokenizer


def load_model(source: Path, scratch: Path) -> PreTrainedModel:
    """Load the model with all weights on the disk, in the calibration dtype.

    Raises:
        QuantizationFailed: transformers cannot load it.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with load_offloaded_model():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=calibration_dtype(),
                device_map="auto_offload",
                max_memory={"cpu": 0},
                offload_folder=scratch,
                local_files_only=True,
            )
            with disable_onloading():
                # Otherwise a weight that is cast on load would be part of the autograd graph.
                model.requires_grad_(False)
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        raise QuantizationFailed(
            f"transformers cannot load the release to calibrate it: {str(error).splitlines()[0]}",
            "Name the method rtn, which needs no loader, or a release whose architecture transformers knows.",
            where=str(source),
        ) from error
    return model


def calibration_dtype() -> torch.dtype | str:
    """`auto` (the release's own) on a GPU and on processors with fast bfloat16, else float32."""
    return "auto" if torch.cuda.is_available() or has_fast_bf16() else torch.float32


def require_same_layers(model: PreTrainedModel, recipe: Recipe) -> None:
    """Compare the model's Linear layers with the recipe's.

    Raises:
        QuantizationUncovered: a layer is in only one of the two; the first is named.
    """
    planned = {layer.name for layer in recipe.layers}
    found = {name for name, _ in match_named_modules(model, ["Linear"], list(recipe.ignore))}
    different = sorted(planned ^ found)
    if different:
        first = different[0]
        only = "the release's files" if first in planned else "the model as transformers builds it"
        raise QuantizationUncovered(
            f"{len(different)} layers, of which {first} is the first, are only in {only}.",
            "Name the method rtn, which uses the files alone.",
            where=first,
        )


def _require_tokens_known(model: PreTrainedModel, samples: list[list[int]]) -> None:
    known = model.config.get_text_config().vocab_size
    largest = max(max(sample) for sample in samples)
    if largest >= known:
        raise QuantizationFailed(
            f"The release's tokenizer makes token {largest:,} of the calibration text, and the model knows {known:,}.",
            "Name a release whose tokenizer and weights belong together.",
        )


class _LayerCounter(Modifier):
    """The last modifier: counts the planned layers of each part of the model that the others finished."""

    names: list[str]
    done: Any

    def on_initialize(self, state: State, **kwargs: Any) -> bool:
        return True

    def on_sequential_epoch_end(
        self, state: State, event: Event, modules: Iterable[torch.nn.Module], **kwargs: Any
    ) -> None:
        finished = set(modules)
        for name in self.names:
            if state.model.get_submodule(name) in finished:
                self.done()


def _batches(samples: list[list[int]]) -> DataLoader[Any]:
    """Batches of one sample: their length suits the processor's caches, and memory stays small."""
    batches: Any = [
        {"input_ids": torch.tensor([sample]), "attention_mask": torch.ones(1, len(sample), dtype=torch.long)}
        for sample in samples
    ]
    return DataLoader(batches, batch_size=None)


@cache
def _scales_rounded(observer: str, dtype: str) -> str:
    """Register an observer whose scales are rounded to the release's dtype.

    The files store scales in that dtype. Rounding them before a method compensates for rounded weights lets it
    compensate for this too, and makes the codes independent of the calibration dtype.
    """
    stored = DTYPES[dtype]
    base: Any = Observer.get_value_from_registry(observer)
    name = f"weighbridge_{observer}_{dtype}"

    @Observer.register(name)
    class RoundedScales(base):
        def get_qparams(self) -> dict[str, Any]:
            found: dict[str, Any] = super().get_qparams()
            rounded = found["scale"].to(stored)
            # A scale too small for float16 would become zero, and a division by it would fail.
            rounded = torch.where(rounded == 0, torch.finfo(stored).tiny, rounded)
            return {**found, "scale": rounded.to(found["scale"].dtype)}

    return name


def _no_tokenizer(what: str, where: Path) -> QuantizationFailed:
    return QuantizationFailed(
        f"Calibration needs the release's tokenizer, and {what}.",
        "Name the method rtn, which needs no text, or a release with its tokenizer.",
        where=str(where),
    )
