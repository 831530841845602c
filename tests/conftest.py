"""Fixtures shared by all tests: a store in a temporary folder, seeds, and the downloaded parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov2_core.storage import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(0)  # noqa: NPY002 - libraries that draw from the global generator
