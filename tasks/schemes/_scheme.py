"""The properties of a scheme: number formats, layout, methods, and the kernel that computes with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

Format = Literal[
    "as-published", "int-quantized", "pack-quantized", "float-quantized", "mxfp4-pack-quantized", "gguf"
]  # fmt: skip
Capability = Literal["weight_only", "int8_tensor_cores", "fp8", "fp8_block", "fp4", "ggml"]
"""Features of GPUs; `tasks/fit/hardware/gpus.yaml` explains each."""


class GgufMixture(BaseModel):
    """The ggml types that llama.cpp's quantizer gives a file's tensors (src/llama-quant.cpp)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Literal["q8_0", "q6_K", "q5_K", "q4_K"]
    """The type of most tensors. With a K type, head, values and some layers get more bits, as in llama.cpp's `_M`."""
    file_type: int
    """`general.file_type` (enum llama_ftype in llama.cpp, include/llama.h)."""
    nanoseconds_per_weight: float
    """Of one core, to round a weight; for the estimated time."""


class Scheme(BaseModel):
    """One way to store and compute a model's Linear layers, as planning, quantizing and serving use it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    """Effect on weights and activations, for the model card."""
    weight_bits: int
    activation_bits: int
    """16: activations are unchanged; 8: rounded to the weights' type at run time."""
    format: Format
    """How compressed-tensors lays the weights out; `as-published` leaves the release alone."""
    group_sizes: tuple[int, ...] = ()
    """Input columns that share a scale, tried from the left; empty: one scale for each output row."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a 32-bit scale, in place of groups; a layer that it does not divide is refused."""
    weight_type: Literal["int", "float"] = "int"
    """`float`: eight bits are FP8 E4M3, four are FP4 E2M1."""
    symmetric: bool = True
    """False: a zero point of `weight_bits` beside each scale."""
    scale_bytes: int = 2
    """Size of one scale: bfloat16, as most releases are."""
    activation_group_size: int | None = None
    """Columns of an activation that share a scale; None: one scale a token."""
    methods: tuple[str, ...] = ("rtn",)
    """Files of `tasks/quantize/methods/`, cheapest first: the order in which they are tried."""
    by_name: tuple[str, ...] = ()
    """Further suitable methods, used only when a line or `--method` names them."""
    written: bool = True
    """False: only read, in published releases; no line can name it."""
    kernel: str = ""
    """The engine's kernel that computes with it, such as `w4a16`; an engine serves the scheme if its profile lists it.

    Empty for `as-published` only: every engine has plain 16-bit kernels.
    """
    capability: Capability | None = None
    """The feature that a GPU needs to run the kernel; None: every GPU can."""
    gguf: GgufMixture | None = None
    """The types of its tensors; exactly if the format is `gguf`."""
    kept: tuple[str, ...] = ()
    """Names or `re:` patterns that a published checkpoint leaves unquantized, beside the usual ones."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.changes_weights and not self.kernel:
            # Without a kernel every engine would seem to serve it.
            raise ValueError(f"{self.name}: `kernel` is missing; name the one that an engine computes with")
        if (self.format == "gguf") != (self.gguf is not None):
            raise ValueError(f"{self.name}: `gguf` must be set exactly if the format is gguf")
        return self

    @property
    def changes_weights(self) -> bool:
        """Whether the weights differ from the release's."""
        return self.format != "as-published"

    @property
    def arithmetic(self) -> Literal["bf16", "int8", "fp8"]:
        """Number type of its matrix products; bf16 unless the activations are rounded, however weights are stored."""
        if self.activation_bits != 8:
            return "bf16"
        return "fp8" if self.weight_type == "float" else "int8"

    @property
    def packed(self) -> bool:
        """Whether several weights share a 32-bit word, with the shape (two int64) beside them."""
        return self.format == "pack-quantized"

    @property
    def is_gguf(self) -> bool:
        """Whether it is a file type of llama.cpp's, which sets the type of each tensor."""
        return self.format == "gguf"

    def keeps(self, name: str) -> bool:
        """Whether a published checkpoint's own list leaves this tensor unquantized."""
        layer = name.removesuffix(".weight")
        return any(re.search(_expression(pattern), layer) for pattern in self.kept)

    def strategy(self, group_size: int | None) -> str:
        """compressed-tensors' word for what shares a scale."""
        return "block" if self.block else "channel" if group_size is None else "group"

    def compressed_tensors(self, group_size: int | None) -> QuantizationScheme:
        """Translate into compressed-tensors' scheme, for llm-compressor (imports torch and transformers).

        Args:
            group_size: the plan's choice out of `group_sizes`; None for one scale a row or block.
        """
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

        weights = QuantizationArgs(
            num_bits=self.weight_bits,
            type=self.weight_type,
            symmetric=self.symmetric,
            dynamic=False,
            strategy=self.strategy(group_size),
            group_size=group_size,
            block_structure=list(self.block) if self.block else None,
        )
        activations = None
        if self.activation_bits < 16:
            activations = QuantizationArgs(
                num_bits=self.activation_bits,
                type=self.weight_type,
                symmetric=True,
                dynamic=True,
                strategy="group" if self.activation_group_size else "token",
                group_size=self.activation_group_size,
            )
        return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)


def _expression(pattern: str) -> str:
    """Regular expression of a pattern: `re:` matches from the start (compressed-tensors); else a part, `*` a number."""
    if pattern.startswith("re:"):
        return f"^(?:{pattern[3:]})"
    return re.escape(pattern).replace(r"\*", r"[^.]+")
