"""What this machine's processor can do, told without importing torch."""

from __future__ import annotations

from pathlib import Path

FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor features (x86, Arm) without which bfloat16 products are about 20 times slower than float32."""


def has_fast_bf16() -> bool:
    """Whether bfloat16 products are fast; no where the system does not tell (anything but Linux)."""
    return bool(processor_features() & FAST_BF16)


def processor_features() -> frozenset[str]:
    """What the processor says of itself (`avx2`, `avx512f`, …); nothing where the system does not tell."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except FileNotFoundError:
        return frozenset()
