"""The tracker's own SQLite file appears whole: a kill while it is made costs nothing but the time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pipelines.resources.mlflow_database import file_of
from tests.pipelines.tiny import ROOT

FIRST = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from pipelines.resources.tracking import Tracking

left = int(sys.argv[1])
if left:
    @event.listens_for(Engine, "after_cursor_execute")
    def count(connection, cursor, statement, *rest):
        global left
        left -= statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP"))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

tracking = Tracking(uri=sys.argv[2])
print(tracking.experiment_id(tracking.answering()))
"""


def start(folder: Path, statements: int = 0) -> subprocess.Popen[str]:
    """Ask a tracker in ``folder`` that does not exist yet; killed after so many statements that make tables."""
    command = [sys.executable, "-W", "ignore", "-c", FIRST, str(statements), f"sqlite:///{folder}/mlflow.db"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_while_its_tables_are_made_it_is_made_again_by_the_next_and_once_for_two(tmp_path: Path) -> None:
    killed = start(tmp_path, 33)
    _, errors = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, errors
    assert not (tmp_path / "mlflow.db").exists(), "half a database has another name"
    both = [start(tmp_path), start(tmp_path)]
    said = [one.communicate(timeout=240) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert len({out for out, _ in said}) == 1, "both found the same experiment"
    assert sorted(p.name for p in tmp_path.glob("*.db*")) == ["mlflow.db"]


def test_only_a_file_of_ones_own_is_made_beforehand(tmp_path: Path) -> None:
    assert file_of("sqlite:///mlflow.db") == Path("mlflow.db")
    assert file_of(f"sqlite:///{tmp_path}/a%20b.db") == tmp_path / "a%20b.db"
    for other in ("", "sqlite://", "sqlite:///:memory:", "http://host:5000", "postgresql+psycopg2://u@h/d", "./mlruns"):
        assert file_of(other) is None, other
