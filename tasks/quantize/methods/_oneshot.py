"""What the calibrated methods share: the model layer by layer, llm-compressor's `oneshot` on it, and the files.

**Little memory.** The weights stay in the release's files. compressed-tensors' disk offload reads one decoder layer at
a time and casts it as it comes, so that float32 costs no float32 copy of the model; what a method changes goes to a
scratch folder beside the result, which vanishes with it.

**The files.** `oneshot` could save the model too, in the type it was calibrated in and in shards of its own. Here the
release's files are gone through instead: planned layers become what compressed-tensors packs, and all else is copied
byte for byte, but for the norms that a smoothing method scaled.
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

from tasks.quantize.calibration import calibration_documents, target_tokens, token_samples
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
        job: its `companions` hold the tokenizer.
        layer_done: called for each planned layer, a decoder layer's all at once.
        modifiers: makes them from the scheme and the names to ignore.
        samples, sample_tokens: how much calibration text; less where the text is shorter, more where `target_tokens`
            says so.
        observer: llm-compressor's name of what finds the scales' range; None where the modifiers find it.
        smooths: whether the modifiers change weights that are not planned, such as norms.

    Returns:
        Tokens of calibration text that were watched.

    Raises:
        CalibrationInvalid: no text, or none that the tokenizer makes sense of.
        QuantizationFailed: no tokenizer, or transformers cannot load the release.
        QuantizationUncovered: transformers' Linear layers are not those of the recipe.
    """
    plan = job.recipe
    assert isinstance(plan, Recipe), "GGUF has a method of its own"
    tokenizer = load_tokenizer(job)
    where = str(job.calibration or "")
    documents = calibration_documents(job.calibration)
    samples = ceil(target_tokens(plan, samples * sample_tokens) / sample_tokens)
    cut = token_samples(tokenizer, documents, samples=samples, sample_tokens=sample_tokens, where=where)
    quantization = scheme(plan.scheme).compressed_tensors(plan.group_size)
    scratch = scratch_of(job)
    try:
        model = load_model(job.source, scratch)
        require_same_layers(model, plan)
        _require_tokens_known(model, cut)
        if observer:
            quantization.weights.observer = _scales_rounded(observer, min(layer.dtype for layer in plan.layers))
        watch = _Watch(names=[layer.name for layer in plan.layers], done=layer_done)
        recipe = [*modifiers(quantization, list(plan.ignore)), watch]
        oneshot(model=model, tokenizer=tokenizer, dataset=_batches(cut), recipe=recipe, pipeline="sequential")
        compressor = BaseCompressor.get_value_from_registry(plan.format)
        pack = partial(compressor.compress, scheme=quantization)
        write_weights(plan, job.source, job.out, model, pack, smooths=smooths)
        write_config(job.source, job.out, plan)
        return sum(map(len, cut))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_of(job: Job) -> Path:
    """Where weights that a method changed wait until they are written."""
    return job.out.parent / "offloaded"


def load_tokenizer(job: Job) -> PreTrainedTokenizerBase:
    """The release's own tokenizer, with its chat template.

    Raises:
        QuantizationFailed: it is missing or does not load.
    """
    folder = job.companions
    if folder is None:
        raise _no_tokenizer("the job does not say where its tokenizer is", job.source)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # Loaders of tokenizers fail with whatever their files make them stumble over.
        raise _no_tokenizer(str(error).splitlines()[0] if str(error) else type(error).__name__, folder) from error
    return tokenizer


def load_model(source: Path, scratch: Path) -> PreTrainedModel:
    """The model with all weights on the disk, in the type that it is to be calibrated in.

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
                # Else a weight that is cast as it comes would be a result that gradients flow through.
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
    """Hold the model's Linear layers against the recipe's.

    Raises:
        QuantizationUncovered: names the first that only one of the two has.
    """
    planned = {layer.name for layer in recipe.layers}
    found = {name for name, _ in match_named_modules(model, ["Linear"], list(recipe.ignore))}
    different = sorted(planned ^ found)
    if different:
        first = different[0]
        only = "the release's files" if first in planned else "the model as transformers builds it"
        raise QuantizationUncovered(
            f"{len(different)} layers, of which {first} is the first, are only in {only}.",
            "Name the method rtn, which goes by the files alone.",
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


class _Watch(Modifier):
    """Last of the modifiers: counts the planned layers of each part of the model that those before it finished."""

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
    """One sample at a time: they are as long as the processor's caches like them, and memory stays small."""
    batches: Any = [
        {"input_ids": torch.tensor([sample]), "attention_mask": torch.ones(1, len(sample), dtype=torch.long)}
        for sample in samples
    ]
    return DataLoader(batches, batch_size=None)


@cache
def _scales_rounded(observer: str, dtype: str) -> str:
    """Register an observer under a name of ours whose scales are numbers of the release's own type.

    The files keep scales in that type. Rounding them before a method compensates for rounded weights lets it
    compensate for that too, and makes the codes the same whatever type the model was calibrated in.
    """
    stored = DTYPES[dtype]
    base: Any = Observer.get_value_from_registry(observer)
    name = f"weighbridge_{observer}_{dtype}"

    @Observer.register(name)
    class RoundedScales(base):
        def get_qparams(self) -> dict[str, Any]:
            found: dict[str, Any] = super().get_qparams()
            rounded = found["scale"].to(stored)
            # A scale too small for float16 would become zero, by which nothing can be divided.
            rounded = torch.where(rounded == 0, torch.finfo(stored).tiny, rounded)
            return {**found, "scale": rounded.to(found["scale"].dtype)}

    return name


def _no_tokenizer(what: str, where: Path) -> QuantizationFailed:
    return QuantizationFailed(
        f"Calibration needs the release's tokenizer, and {what}.",
        "Name the method rtn, which needs no text, or a release with its tokenizer.",
        where=str(where),
    )
