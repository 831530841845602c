"""The one-box deployment: every reference leads somewhere, nothing secret is written, and its instance file loads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
FOLDER = INFRA / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KNOWN = {
    *("image", "build", "command", "entrypoint", "environment", "ports", "volumes", "depends_on", "healthcheck"),
    *("restart", "init", "security_opt", "cap_drop", "cap_add", "logging", "shm_size", "tmpfs", "profiles", "deploy"),
}


def test_the_box_has_every_part() -> None:
    assert {"webserver", "daemon", "code", "mlflow", "postgres", "s3", "ray"} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_well_formed_and_what_it_names_exists(name: str) -> None:
    own = SERVICES[name]
    assert set(own) <= KNOWN
    if "build" in own:
        assert (FOLDER / own["build"]["context"] / own["build"]["dockerfile"]).exists()
    else:
        assert re.search(r":\d", own["image"]), "an image without a version changes under us"
    for volume in own.get("volumes", ()):
        source = volume.split(":")[0]
        assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    for other, how in own.get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
    for host in re.findall(r"(?:http://|@)(\w[\w-]*):\d", yaml.safe_dump([own.get("environment"), own.get("command")])):
        assert host in SERVICES, host


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_shut_off(name: str) -> None:
    own = SERVICES[name]
    assert own["cap_drop"] == ["ALL"]
    assert own["security_opt"] == ["no-new-privileges:true"]
    for port in own.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "open to the network"


def test_secrets_come_from_the_environment_and_are_missed_at_once() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert all(":?" in found for found in re.findall(r"\$\{[^}]*\}", text)), "an empty password would be taken"
    example = dict(line.split("=", 1) for line in (FOLDER / ".env.example").read_text().splitlines() if "=" in line)
    assert set(example) == asked
    assert set(example.values()) == {""}


@pytest.mark.parametrize("script", ["create-databases.sh", "start-s3.sh"])
def test_a_script_parses(script: str) -> None:
    subprocess.run(["sh", "-n", str(FOLDER / script)], check=True)


def test_the_instance_file_differs_from_the_local_one_by_its_storage_alone() -> None:
    own, local = (yaml.safe_load(p.read_text()) for p in (FOLDER / "dagster.yaml", INFRA / "dagster.yaml"))
    assert set(own.pop("storage")) == {"postgres"}
    local.pop("storage", None)
    assert own == local


def test_the_instance_file_is_valid(tmp_path: Path) -> None:
    from dagster._core.instance.config import dagster_instance_config

    (tmp_path / "dagster.yaml").write_text((FOLDER / "dagster.yaml").read_text())
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["storage"]["postgres"]["postgres_db"]["db_name"] == {"env": "DAGSTER_PG_DB"}
