"""Rolling back is one command and one click, and says what it did or why it cannot."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from assets.promotion import Verdict
from pipelines import champion
from pipelines.jobs import JOBS
from pipelines.resources.tracking import Tracking
from tests.pipelines.tracker import tracker


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return tracker(tmp_path_factory.mktemp("command"))


@pytest.fixture
def tracking(database: Tracking, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Tracking:
    """A registered model of its own with three versions, of which the first and the second were promoted."""
    made = Tracking(uri=database.uri, spool=database.spool, model_name=f"m{abs(hash(request.node.name))}")
    monkeypatch.setattr(Tracking, "from_environment", classmethod(lambda cls: made))
    client = made.client()
    client.create_registered_model(made.model_name)
    for _ in range(3):
        client.create_model_version(made.model_name, source="file:///nowhere")
    for version in ("1", "2"):
        made.champions(client).promote(version, lambda held: Verdict(True, f"better than {held and held.version}"))
    return made


def holder(tracking: Tracking) -> str:
    return str(tracking.champion(tracking.client()).version)


def test_one_command_rolls_back_and_says_so(tracking: Tracking, capsys: pytest.CaptureFixture[str]) -> None:
    assert champion.main(["rollback", "--why", "wrong on snow"]) == 0
    assert "version 1 is champion again, instead of version 2" in capsys.readouterr().out
    assert holder(tracking) == "1"
    assert champion.main([]) == 0
    said = capsys.readouterr().out
    assert "version 1 is champion" in said.splitlines()[0]
    assert "rollback      2 → 1     wrong on snow" in said.splitlines()[1]
    assert "better than 1" in said.splitlines()[2]


def test_a_rollback_that_is_not_possible_is_one_line(tracking: Tracking, capsys: pytest.CaptureFixture[str]) -> None:
    assert champion.main(["rollback", "--to", "9"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tracking.model_name}: there is no version 9")
    assert holder(tracking) == "2"


def test_a_tracker_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = Tracking(uri="sqlite:////proc/none/mlflow.db")
    monkeypatch.setattr(Tracking, "from_environment", classmethod(lambda cls: nowhere))
    assert champion.main(["rollback"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: sqlite:////proc/none/mlflow.db: the tracker does not answer")
    assert len(said.splitlines()) == 1


def click(tracking: Tracking, **settings: Any) -> Any:
    job = dg.Definitions(jobs=[champion.rollback], resources={"tracking": tracking}).resolve_job_def("rollback")
    return job.execute_in_process(raise_on_error=False, **settings)


def test_one_click_rolls_back(tracking: Tracking) -> None:
    assert champion.rollback in JOBS
    assert click(tracking).success
    assert holder(tracking) == "1"


def test_the_job_takes_a_version_and_fails_in_one_line(tracking: Tracking) -> None:
    def run(to: str) -> Any:
        config = dg.RunConfig(ops={"go_back": champion.Rollback(to=to, why="a test")})
        return click(tracking, run_config=config)

    assert run("3").success
    assert holder(tracking) == "3"
    failed = run("9")
    assert not failed.success
    (event,) = [e for e in failed.all_events if e.is_step_failure]
    assert "there is no version 9" in str(event.step_failure_data.user_failure_data or event.step_failure_data.error)
