"""Which number format products are computed in, and the scale that keeps float16's gradients. Weights are float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype for ``precision`` (``float32``, ``bfloat16`` or ``float16``) on this machine.

    A CPU without bfloat16 instructions emulates them at a fraction of float32's speed, so there it is float32.
    """
    if precision == "float16":
        return torch.float16
    if precision == "bfloat16" and (torch.cuda.is_available() or _cpu_has_bfloat16()):
        return torch.bfloat16
    return torch.float32


@dataclass
class LossScale:
    """What a float16 loss is multiplied by: halved when gradients overflow, doubled after ``patience`` good steps.

    It judges by the gradient norms of the whole network, which every process knows, so all move it alike.
    """

    value: float = 1.0
    good: int = 0
    patience: int = 2_000

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """Only float16 needs a scale; others keep 1, which never moves."""
        return cls(2.0**16) if dtype == torch.float16 else cls(1.0, patience=0)

    @property
    def moves(self) -> bool:
        return self.patience > 0

    def lower(self) -> bool:
        """After an overflow. False: there is nothing left to lower, so the scale is not the cause."""
        if not self.moves or self.value <= 1.0:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def step(self) -> None:
        """After a good step."""
        self.good += 1
        if self.moves and self.good >= self.patience:
            self.value, self.good = self.value * 2, 0


def _cpu_has_bfloat16() -> bool:
    # Not public, and absent in some builds: then the answer is no.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
