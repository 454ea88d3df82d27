"""What a scheme declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

Format = Literal["as-published", "int-quantized", "pack-quantized"]


class Scheme(BaseModel):
    """One way to store and compute a model's Linear layers."""

    model_config = ConfigDict(frozen=True)

    name: str
    summary: str
    """What it does to the weights and to the activations, for the model card."""
    weight_bits: int
    activation_bits: int
    """16: activations stay as they are; 8: rounded to INT8, one scale a token, while it serves."""
    format: Format
    """How compressed-tensors lays the weights out; `as-published` leaves the release alone."""
    group_sizes: tuple[int, ...] = ()
    """Input columns that share a scale, tried from the left; none: one scale for each output row."""
    weight_type: Literal["int", "float"] = "int"
    symmetric: bool = True
    """False: a zero point beside each scale."""
    methods: tuple[str, ...] = ("rtn",)
    """Files of `tasks/quantize/methods/`, from the cheapest up: the rungs of the ladder."""

    @property
    def changes_weights(self) -> bool:
        """Whether there is anything to do at all."""
        return self.format != "as-published"

    def compressed_tensors(self, group_size: int | None) -> QuantizationScheme:
        """The same in compressed-tensors' words, for llm-compressor (imports torch).

        Args:
            group_size: the plan's choice out of `group_sizes`; None for one scale a row.
        """
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

        weights = QuantizationArgs(
            num_bits=self.weight_bits,
            type=self.weight_type,
            symmetric=self.symmetric,
            dynamic=False,
            strategy="channel" if group_size is None else "group",
            group_size=group_size,
        )
        activations = None
        if self.activation_bits < 16:
            activations = QuantizationArgs(
                num_bits=self.activation_bits, type="int", symmetric=True, dynamic=True, strategy="token"
            )
        return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)
