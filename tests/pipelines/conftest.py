"""What several files here share: the toy pipeline, and one undisturbed run of the tiny demo."""

from __future__ import annotations

import pytest

from tests.pipelines.hook import hook  # noqa: F401 - a fixture
from tests.pipelines.tiny import Tiny
from tests.pipelines.toy import toy  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One undisturbed tiny demo; tests must leave its data as it is."""
    tiny = Tiny(tmp_path_factory.mktemp("whole")).prepare()
    ended = tiny.run(tiny.command())
    assert ended.returncode == 0, ended.stderr[-4000:]
    (tiny.folder / "stdout.txt").write_text(ended.stdout)
    return tiny
