"""int4 (W4A16): a quarter of the bytes, for memory-bound decoding."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="int4",
    summary="W4A16: symmetric INT4 weights with one scale for each group of input columns, activations as they are",
    weight_bits=4,
    activation_bits=16,
    format="pack-quantized",
    # Larger groups store fewer scales; below 32 vLLM's kernels do not go.
    group_sizes=(128, 64, 32),
    # Measured (docs/evidence/quantization.md): awq costs as much as gptq and gains less.
    methods=("rtn", "gptq"),
    by_name=("awq", "autoround"),
    kernel="w4a16",
    capability="weight_only",
)
