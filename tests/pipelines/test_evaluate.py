"""A registered model is evaluated by its URI; what the registry does not have is one line."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from dinov2_core.model import weights
from pipelines import evaluate
from pipelines.resources.tracking import Tracking
from tests.evaluate.test_evaluation import model, tree


def test_a_version_of_the_registry_is_evaluated_by_its_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking = Tracking.from_environment()
    client = tracking.client()
    one = model()
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights.to_bytes(one.backbone, one.preprocessing))
    run = client.create_run(tracking.experiment_id(client)).info
    client.log_artifacts(run.run_id, str(folder), "model")
    client.create_registered_model("dinov2")
    client.create_model_version("dinov2", f"{run.artifact_uri}/model", run.run_id)
    data = tree(tmp_path / "set")
    (tmp_path / "s.yaml").write_text("knn: {k: [3]}")
    rest = ["--protocol", "knn", "--data", str(data), "--out", "out", "--cache", "c", "--settings", "s.yaml"]
    assert evaluate.main(["--weights", "models:/dinov2/1", *rest]) == 0
    assert json.loads((tmp_path / "out/scores.json").read_text())["weights"] == one.digest
    assert evaluate.main(["--weights", "models:/dinov2/7", *rest]) == 1
    assert "models:/dinov2/7: no such model" in capsys.readouterr().err
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
