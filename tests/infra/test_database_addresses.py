"""Every PostgreSQL address that a deployment gives Dagster or MLflow asks for a driver that its image has.

The addresses are made as Dagster makes them and read as SQLAlchemy reads them; since 2.1 that takes plain
``postgresql://`` for a driver that nobody installs here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster_postgres.utils import get_conn_string, pg_url_from_config
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
LOCKS = ("requirements.lock", "infra/docker/orchestrator.lock", "infra/docker/worker.lock")
COMPOSE = yaml.safe_load((INFRA / "compose/compose.yaml").read_text())
SECRET = "p@ss/word:with#all%of?them"
ADDRESS = re.compile(r"postgresql(?:\+\w+)?://[^\s\"'`]*")


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def filled(values: Any, environment: Mapping[str, str]) -> Any:
    """Settings with each ``{env: NAME}`` replaced by its value."""
    if not isinstance(values, Mapping):
        return values
    if set(values) == {"env"}:
        return environment[values["env"]]
    return {key: filled(value, environment) for key, value in values.items()}


def compose_environment(service: str) -> dict[str, str]:
    """What a service of the one-box deployment sees, every secret with the same awkward value."""
    found = COMPOSE["services"][service]["environment"]
    return {key: re.sub(r"\$\{[^}]*\}", lambda _: SECRET, str(value)) for key, value in found.items()}


def instance_file(name: str, environment: Mapping[str, str]) -> str:
    """The address that an instance file leads to."""
    storage = yaml.safe_load(text_of(name))["storage"]["postgres"]
    return pg_url_from_config(filled(storage, environment))


def compose_tracker() -> str:
    (found,) = ADDRESS.findall(yaml.safe_dump(COMPOSE["services"]["mlflow"]["command"], width=10_000))
    return found


def chart() -> str:
    """The address that the chart's instance file leads to, from its values."""
    values = yaml.safe_load(text_of("infra/kubernetes/dagster-values.yaml"))["postgresql"]
    scheme = {"scheme": values["postgresqlScheme"]} if "postgresqlScheme" in values else {}
    return get_conn_string(
        values["postgresqlUsername"],
        SECRET,
        values["postgresqlHost"],
        values["postgresqlDatabase"],
        str(values["service"]["port"]),
        **scheme,
    )


def from_the_comment() -> str:
    """The address that the head of the file tells people to put into the environment."""
    (example,) = ADDRESS.findall(text_of("infra/dagster-postgres.yaml"))
    return instance_file("infra/dagster-postgres.yaml", {"DAGSTER_POSTGRES_URL": example})


ADDRESSES = {
    "dagster, by the runbook": from_the_comment,
    "dagster, one box": lambda: instance_file("infra/compose/dagster.yaml", compose_environment("daemon")),
    "dagster, chart": chart,
    "mlflow, one box": compose_tracker,
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_names_a_driver_that_is_installed_and_locked(name: str) -> None:
    url = make_url(ADDRESSES[name]())
    check(url)
    assert url.host
    assert url.database in ("dagster", "mlflow", "database")


def check(url: URL) -> None:
    """An engine can be made of it, by a driver that every image and the development set have."""
    driver = create_engine(url).dialect.driver
    importlib.import_module(driver)
    (distribution,) = set(packages_distributions()[driver])
    for lock in LOCKS:
        assert re.search(rf"^{re.escape(distribution)}==", text_of(lock), re.M), f"{lock} lacks {distribution}"


def test_a_password_of_any_characters_arrives_whole() -> None:
    for name in ("dagster, one box", "dagster, chart"):
        assert make_url(ADDRESSES[name]()).password == SECRET
    # The tracker's is nowhere in its address, where nothing would escape it and `ps` would show it.
    assert make_url(compose_tracker()).password is None
    assert compose_environment("mlflow")["PGPASSWORD"] == SECRET, "the driver's library takes it from there"


def test_every_address_in_documents_and_deployments_names_its_driver() -> None:
    places = [
        path
        for folder in ("infra", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".yaml", ".md", ".sh", ".example", ".Dockerfile")
    ]
    found = {(path.name, one) for path in places for one in ADDRESS.findall(path.read_text())}
    # The one that the runbook warns of.
    plain = {name for name, one in found if one.startswith("postgresql://") and one != "postgresql://"}
    assert plain == set()
    assert {"cluster.md", "operations.md", "compose.yaml", "dagster-postgres.yaml"} <= {name for name, _ in found}
