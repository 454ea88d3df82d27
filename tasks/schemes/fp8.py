"""fp8: half the bytes, and FP8 matrix products where the hardware has them (NVIDIA from Ada and Hopper on)."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="fp8",
    summary="FP8 E4M3 weights with one scale for each output row, activations rounded to FP8 token by token",
    weight_bits=8,
    activation_bits=8,
    format="float-quantized",
    weight_type="float",
    kernel="w8a8_fp8",
    capability="fp8",
)
