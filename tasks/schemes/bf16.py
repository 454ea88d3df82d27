"""bf16: the release as it was published."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="bf16",
    summary="as published; no weight is changed",
    weight_bits=16,
    activation_bits=16,
    format="as-published",
)
