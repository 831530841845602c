"""Secrets come from the environment or from files, and turn up in nothing that a run writes or the interface shows."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from dinov2_core.errors import UserError
from pipelines.resources.tracking import Tracking
from tests import toy_pipeline
from tests.pipelines.tiny import ROOT
from tests.security.planted import files_with, forms, holds

PLANTED = {
    "AWS_ACCESS_KEY_ID": "pl4nted-AKIA",
    "AWS_SECRET_ACCESS_KEY": "pl4nted/aws+secret",
    "AWS_SESSION_TOKEN": "pl4nted-token",
    "MLFLOW_TRACKING_PASSWORD": "pl4nted-mlflow",
    "MLFLOW_TRACKING_TOKEN": "pl4nted-bearer",
    "DINOV2_ALERT_WEBHOOK": "http://127.0.0.1:1/hook/pl4nted-hook",
    "DAGSTER_POSTGRES_URL": "postgresql+psycopg2://dinov2:pl4nted-pg@127.0.0.1:1/dagster",
    "MLFLOW_TRACKING_URI": "http://dinov2:pl4nted-uri@127.0.0.1:1",
}
SECRETS = [
    value.rpartition("/hook/")[2].split(":")[-2 if "@" in value else -1].split("@")[0] for value in PLANTED.values()
]
RUN = """
import sys
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from tests.toy_location import defs
from pipelines import materialize
shown = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
with materialize.instance() as on:
    for job in ("recurate", "full_pipeline", "adopt_champion"):
        result = materialize.execute(job, on=on, definitions=defs)
        print(job, result.success, materialize.failures(result))
open(sys.argv[1], "w").write(shown)
"""


def test_the_planted_secrets_are_what_they_should_be() -> None:
    assert all(secret.startswith("pl4nted") for secret in SECRETS), SECRETS
    assert holds(b"x=" + forms("pl4nted/aws+secret")[1], SECRETS)


def test_runs_that_succeed_and_fail_write_no_secret_anywhere(tmp_path: Path) -> None:
    toy_pipeline.lake(tmp_path, "embeddings: {encoder: champion}\nseed_embeddings: {fail: planted to fail}\n")
    toy_pipeline.put(tmp_path, "b1", "1\n")
    env = {
        **os.environ,
        **PLANTED,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(tmp_path / "home"),
        "DATA_ROOT": str(tmp_path / "data"),
        "DINOV2_PARAMS": str(tmp_path / "params.yaml"),
        "DINOV2_WORKERS": "-1",
    }
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path / "shown.json")]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    (tmp_path / "said.txt").write_text(ended.stdout + ended.stderr)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "recurate False" in ended.stdout
    assert "planted to fail" in ended.stdout
    assert "adopt_champion False" in ended.stdout, "the tracker is not there"
    assert "MLFLOW_TRACKING_URI" in (tmp_path / "shown.json").read_text(), "by name, not by value"
    assert files_with(tmp_path, SECRETS) == []


def test_a_secret_that_was_written_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("nothing")
    (tmp_path / "b").write_bytes(b"\x00\x01url=http://u:pl4nted-uri@h")
    assert files_with(tmp_path, SECRETS) == ["b"]


def test_a_tracker_that_is_gone_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("HTTP_REQUEST_MAX_RETRIES", "0"), ("TRACKING_USERNAME", ""), ("TRACKING_PASSWORD", "")):
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    with caplog.at_level(logging.DEBUG):
        tracking = Tracking(uri=PLANTED["MLFLOW_TRACKING_URI"])
        with tracking.training("pretrained_checkpoint", "f", {}, {}, {}) as tracker:
            if tracker is not None:
                tracker(0, {"loss": 1.0})
        with pytest.raises(UserError) as told:
            tracking.answering()
    assert not holds(repr(told.value).encode(), SECRETS)
    assert not holds(repr(told.value.__cause__).encode(), SECRETS)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "pl4nted-uri", "the server is still told"
    said = capsys.readouterr()
    assert not holds((caplog.text + said.out + said.err).encode(), SECRETS)


def test_the_web_server_binds_to_loopback_unless_it_is_told_otherwise() -> None:
    from dagster_webserver.cli import DEFAULT_WEBSERVER_HOST

    assert DEFAULT_WEBSERVER_HOST == "127.0.0.1"
    recipe = (ROOT / "Makefile").read_text().split("\nui:")[1].split("\n\n")[0]
    assert "0.0.0.0" not in recipe
    assert " -h " not in recipe


def test_no_resource_shows_more_than_the_names_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.definitions import build_defs

    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    from dagster._core.remote_representation.external_data import RepositorySnap

    shown = dg.serialize_value(RepositorySnap.from_def(build_defs().get_repository_def()))
    assert not holds(shown.encode(), SECRETS)
