"""Features of this machine's processor, without importing torch."""

from __future__ import annotations

from pathlib import Path

FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor features (x86, Arm) without which bfloat16 products are about 20 times slower than float32."""


def has_fast_bf16() -> bool:
    """Return whether bfloat16 products are fast; False if the system does not say (anything but Linux)."""
    return bool(processor_features() & FAST_BF16)


def processor_features() -> frozenset[str]:
    """Return the processor's features (`avx2`, `avx512f`, …); empty if the system does not list them."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except FileNotFoundError:
        return frozenset()
