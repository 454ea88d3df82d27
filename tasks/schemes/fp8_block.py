"""fp8-block: FP8 as DeepSeek-V3 was trained and published, a scale for each 128 × 128 weights."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="fp8-block",
    summary="FP8 E4M3 weights with one scale for each block of 128 × 128, activations rounded to FP8 by 128 columns",
    weight_bits=8,
    activation_bits=8,
    format="float-quantized",
    weight_type="float",
    block=(128, 128),
    activation_group_size=128,
    kernel="w8a8_fp8_block",
    capability="fp8_block",
)
