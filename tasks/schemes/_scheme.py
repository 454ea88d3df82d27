"""What a scheme declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

Format = Literal["as-published", "int-quantized", "pack-quantized", "float-quantized", "gguf"]


class Scheme(BaseModel):
    """One way to store and compute a model's Linear layers."""

    model_config = ConfigDict(frozen=True)

    name: str
    summary: str
    """What it does to the weights and to the activations, for the model card."""
    weight_bits: int
    activation_bits: int
    """16: activations stay as they are; 8: rounded to the weights' type while it serves."""
    format: Format
    """How compressed-tensors lays the weights out; `as-published` leaves the release alone."""
    group_sizes: tuple[int, ...] = ()
    """Input columns that share a scale, tried from the left; none: one scale for each output row."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale, in place of groups; a layer that it does not divide is refused."""
    weight_type: Literal["int", "float"] = "int"
    """`float`: eight bits are FP8 E4M3."""
    symmetric: bool = True
    """False: a zero point beside each scale."""
    activation_group_size: int | None = None
    """Columns of an activation that share a scale; None: one scale a token."""
    methods: tuple[str, ...] = ("rtn",)
    """Files of `tasks/quantize/methods/`, from the cheapest up: the rungs of the ladder."""
    by_name: tuple[str, ...] = ()
    """Methods that suit it too, for a line or `--method` to name."""

    @property
    def changes_weights(self) -> bool:
        """Whether there is anything to do at all."""
        return self.format != "as-published"

    def strategy(self, group_size: int | None) -> str:
        """compressed-tensors' word for what shares a scale."""
        return "block" if self.block else "channel" if group_size is None else "group"

    def compressed_tensors(self, group_size: int | None) -> QuantizationScheme:
        """The same in compressed-tensors' words, for llm-compressor (imports torch and transformers).

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
