"""int8 (W8A8): half the bytes, and INT8 matrix products where the hardware has them."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="int8",
    summary="W8A8: INT8 weights with one scale for each output row, activations rounded to INT8 token by token",
    weight_bits=8,
    activation_bits=8,
    format="int-quantized",
    methods=("rtn", "smoothquant_gptq"),
    by_name=("gptq",),
    kernel="w8a8_int8",
    capability="int8_tensor_cores",
)
