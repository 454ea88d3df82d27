"""int4-asym (W4A16 with zero points): as small as int4, nearer where a group's weights lie to one side of zero."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="int4-asym",
    summary="W4A16: INT4 weights with a scale and a zero point for each group of columns, activations as they are",
    weight_bits=4,
    activation_bits=16,
    format="pack-quantized",
    group_sizes=(128, 64, 32),
    symmetric=False,
    methods=("rtn", "gptq"),
    by_name=("awq",),
    kernel="w4a16_asym",
    capability="weight_only",
)
