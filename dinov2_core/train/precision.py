"""Which number format the products of a run are computed in, on the machine at hand. Weights are always float32."""

from __future__ import annotations

import torch


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype for ``precision`` (``float32`` or ``bfloat16``) on this machine.

    A CPU without bfloat16 instructions emulates them at a fraction of float32's speed, so there it is float32.
    """
    if precision == "bfloat16" and (torch.cuda.is_available() or _cpu_has_bfloat16()):
        return torch.bfloat16
    return torch.float32


def _cpu_has_bfloat16() -> bool:
    # Not public, and absent in some builds: then the answer is no.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
