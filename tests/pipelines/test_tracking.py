"""One MLflow run a training, continued after a kill; metrics arrive once, in order; a dead tracker stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.resources.tracking import MetricBuffer, Tracking


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.chdir(tmp_path)
    return Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")


def begin(tracking: Tracking) -> Any:
    return tracking.training(
        "pretrained_checkpoint", "f1", {"lr": 0.1}, {"curated_lvd/all": "ab" * 32}, {"who": "test"}
    )


def test_a_training_is_one_run_with_its_settings_inputs_and_metrics(tracking: Tracking) -> None:
    with begin(tracking) as tracker:
        for step in range(3):
            tracker(step, {"loss": 3.0 - step})
    client = tracking.client()
    run = tracking.find_run(client, "pretrained_checkpoint", "f1")
    assert run is not None
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["manifest.curated_lvd/all"] == "ab" * 32
    assert run.inputs.dataset_inputs[0].dataset.name == "curated_lvd/all"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_a_killed_training_goes_on_in_its_run(tracking: Tracking) -> None:
    with pytest.raises(KeyboardInterrupt), begin(tracking) as tracker:  # noqa: PT012
        tracker(0, {"loss": 3.0})
        raise KeyboardInterrupt
    with begin(tracking) as tracker:
        tracker(1, {"loss": 2.0})
    client = tracking.client()
    runs = client.search_runs([tracking.experiment_id(client)])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(runs[0].info.run_id, "loss")] == [0, 1]


class Flaky:
    """A client that is down for its first calls."""

    def __init__(self, down: int) -> None:
        self.down, self.got = down, []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        if self.down:
            self.down -= 1
            raise ConnectionError("server gone")
        self.got += [(m.step, m.key) for m in metrics]


def test_metrics_wait_while_the_server_is_gone_and_arrive_once_in_order() -> None:
    client = Flaky(down=2)
    buffer = MetricBuffer(client, "r", every_seconds=0)
    for step in range(4):
        buffer(step, {"loss": 1.0})
    assert client.got == [(s, "loss") for s in range(4)]
    assert not buffer.waiting


def test_an_unreachable_server_does_not_stop_a_training(tmp_path: Path) -> None:
    tracking = Tracking(uri="sqlite:////proc/none/mlflow.db")
    with begin(tracking) as tracker:
        assert tracker is None
