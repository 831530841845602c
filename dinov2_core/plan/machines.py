"""The machines a plan is for, and what an hour of them is said to cost."""

from __future__ import annotations

from dataclasses import dataclass

from dinov2_core.errors import ConfigError, nearest

PEAKS = {"h200": 1.0, "h100": 1.0, "a100": 312 / 989, "v100": 125 / 989}
"""Peak of 16-bit products beside that of an H200, by data sheet."""
PRICES = ("gpu", "core", "storage")


@dataclass(frozen=True)
class Machines:
    """``storage_rate`` is in bytes a second, over all clients."""

    gpu: str
    gpus: int
    cores: int
    storage_rate: float

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.cores < 1 or not self.storage_rate > 0:
            raise ConfigError("a plan needs a GPU, a core and a storage rate", todo="give numbers over zero")

    @property
    def peak(self) -> float:
        """Of one GPU beside an H200."""
        return PEAKS[self.gpu]


def gpus(text: str) -> tuple[str, int]:
    """``"h200:64"`` → ``("h200", 64)``."""
    kind, _, count = text.partition(":")
    if kind not in PEAKS:
        raise ConfigError(f"no GPU '{kind}'{nearest(kind, PEAKS)}", where="--gpus", todo=f"known: {', '.join(PEAKS)}")
    if not count.isdigit():
        raise ConfigError(f"'{text}' says no number of GPUs", where="--gpus", todo=f"write {kind}:64")
    return kind, int(count)


def prices(given: list[str]) -> dict[str, float]:
    """``["gpu=3.5", "core=0.03"]`` → prices of a GPU hour, a core hour and a TB-month of storage."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in PRICES:
            raise ConfigError(f"no price '{name}'{nearest(name, PRICES)}", where="--price", todo="gpu, core or storage")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"'{text}' is no price", where="--price", todo=f"write {name}=1.50") from error
    return found
