"""System metrics of the machine that trains, by MLflow's own collectors: processor, memory, disk, network, GPUs.

MLflow's monitor stops for good at the first request that fails, so only its collectors are used.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any


class SystemMetrics:
    """``sample()`` gives the metrics named as MLflow names them, once in ``every`` seconds, else nothing."""

    def __init__(self, every: float = 10.0) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.every = every
        self._due = 0.0
        self._monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        # Needs NVIDIA's library and a GPU.
        with contextlib.suppress(Exception):
            self._monitors.append(GPUMonitor())

    def sample(self) -> dict[str, float]:
        if time.monotonic() < self._due:
            return {}
        self._due = time.monotonic() + self.every
        found: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):
                monitor.collect_metrics()
                found |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found
