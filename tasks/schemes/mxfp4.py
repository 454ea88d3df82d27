"""mxfp4: four-bit floats as gpt-oss is published; read in releases, not written here."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="mxfp4",
    summary="W4A16: FP4 E2M1 weights, each group of 32 columns with one eight-bit exponent, activations as they are",
    weight_bits=4,
    activation_bits=16,
    format="mxfp4-pack-quantized",
    weight_type="float",
    # OCP Microscaling Formats 1.0: 32 four-bit floats share an eight-bit exponent.
    group_sizes=(32,),
    scale_bytes=1,
    methods=(),
    written=False,
    kernel="mxfp4",
    capability="fp4",
)
