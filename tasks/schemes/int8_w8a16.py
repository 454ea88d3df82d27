"""int8-w8a16: half the bytes with activations untouched; nearest to the release, and no faster to compute."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="int8-w8a16",
    summary="W8A16: INT8 weights with one scale for each output row, activations as they are",
    weight_bits=8,
    activation_bits=16,
    format="pack-quantized",
    by_name=("gptq",),
    kernel="w8a16",
    capability="weight_only",
)
