"""What the official Dagster chart makes of our values, as helm renders it.

Only where the chart is at hand, unpacked, in the folder that DAGSTER_CHART names: it comes from a site that tests may
not reach. What can be said of the values without it is in test_kubernetes.py.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml
from referencing.jsonschema import DRAFT7

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
VERSION = "1.33"
CHART = Path(os.environ.get("DAGSTER_CHART", ""))
OURS = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
APPLIED = [
    d
    for name in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    for d in yaml.safe_load_all((FOLDER / name).read_text())
]
pytestmark = [
    pytest.mark.skipif(
        "DAGSTER_CHART" not in os.environ, reason="DAGSTER_CHART names no folder with the Dagster chart"
    ),
    pytest.mark.skipif(shutil.which("helm") is None, reason="no helm on the path"),
]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """All manifests of the release. Helm would fetch parts of the values' schema: that is a test below."""
    command = ["helm", "template", "dagster", str(CHART), "--skip-schema-validation", "--namespace", "dinov2"]
    command += ["--values", str(FOLDER / "dagster-values.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [d for d in yaml.safe_load_all(ended.stdout) if d]


@pytest.fixture(scope="module")
def templates(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pods' templates, by their component."""
    found = [d["spec"]["template"] for d in documents if d["kind"] == "Deployment"]
    return {t["metadata"]["labels"]["component"]: t for t in found}


@pytest.fixture(scope="module")
def instance(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (text,) = [d["data"]["dagster.yaml"] for d in documents if "dagster.yaml" in (d.get("data") or {})]
    return dict(yaml.safe_load(text))


def containers(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from template["spec"]["containers"]
    yield from template["spec"].get("initContainers", ())


def over(defaults: Any, ours: Any) -> Any:
    """Values as helm joins them: maps key by key, all else replaced."""
    if not isinstance(defaults, dict) or not isinstance(ours, dict):
        return ours
    return {**defaults, **{key: over(defaults.get(key), value) for key, value in ours.items()}}


def faults(ours: dict[str, Any]) -> list[str]:
    """What the chart's schema has against values; its references to Kubernetes' own schema are answered from here."""
    local = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local"
    named = json.loads((local / "_definitions.json").read_text())["$defs"]
    kubernetes = referencing.Resource({"$defs": named, "definitions": named}, DRAFT7)
    schema = json.loads((CHART / "values.schema.json").read_text())
    registry: Any = referencing.Registry(retrieve=lambda uri: kubernetes)
    values = over(yaml.safe_load((CHART / "values.yaml").read_text()), ours)
    return [e.message for e in jsonschema.Draft7Validator(schema, registry=registry).iter_errors(values)]


def test_the_values_hold_to_the_charts_schema() -> None:
    assert faults(OURS) == []
    assert faults({**OURS, "dagsterWebserver": {"replicas": 2}}) != []


def test_every_manifest_holds_to_its_schema(documents: list[dict[str, Any]]) -> None:
    assert {"Deployment", "Service", "ConfigMap", "Role", "RoleBinding", "ServiceAccount"} <= {
        d["kind"] for d in documents
    }
    for body in documents:
        kubernetes_validate.validate(body, VERSION, strict=True)


def test_every_pod_is_let_into_the_namespace(templates: dict[str, dict[str, Any]]) -> None:
    """By the restricted standard and by the quota, which both refuse a pod for one container of it."""
    assert set(templates) == {"dagster-webserver", "dagster-daemon", "user-deployments"}
    for name, template in templates.items():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            where = f"{name}: {container['name']}"
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
            assert "memory" in container["resources"]["limits"], where
            for port in container.get("ports", ()):
                assert port["containerPort"] >= 1024, where


def test_what_works_is_our_image(templates: dict[str, dict[str, Any]]) -> None:
    for name, template in templates.items():
        (container,) = template["spec"]["containers"]
        image = "dinov2-worker" if name == "user-deployments" else "dinov2-orchestrator"
        assert container["image"] == f"registry.example/{image}:VERSION"
        assert container["imagePullPolicy"] == "IfNotPresent"


def test_secrets_are_referred_to_and_all_that_is_referred_to_is_made(
    documents: list[dict[str, Any]], templates: dict[str, dict[str, Any]]
) -> None:
    assert [d for d in documents if d["kind"] == "Secret"] == []
    made = {
        d["metadata"]["name"] for d in [*documents, *APPLIED] if d["kind"] in ("ConfigMap", "PersistentVolumeClaim")
    }
    made |= set(re.findall(r"create (?:secret generic|configmap) ([\w-]+)", (ROOT / "docs" / "cluster.md").read_text()))
    for name, template in templates.items():
        named = {v["configMap"]["name"] for v in template["spec"]["volumes"] if "configMap" in v}
        claims = [v["persistentVolumeClaim"] for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v]
        named |= {claim["claimName"] for claim in claims}
        for container in containers(template):
            sources = [source for e in container.get("envFrom", ()) for source in e.values()]
            named |= {source["name"] for source in sources if not source.get("optional")}
            variables = container.get("env", ())
            named |= {e["valueFrom"]["secretKeyRef"]["name"] for e in variables if "valueFrom" in e}
            assert [
                e["name"] for e in variables if re.search("PASSWORD|SECRET|TOKEN", e["name"]) and "value" in e
            ] == []
        assert {"dinov2-s3", "dinov2-settings"} <= named, name
        assert named <= made, name


def test_services_and_policies_find_their_pods(
    documents: list[dict[str, Any]], templates: dict[str, dict[str, Any]]
) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in templates.items()}
    for service in [d for d in documents if d["kind"] == "Service"]:
        wanted = service["spec"]["selector"]
        (found,) = [name for name, own in labels.items() if wanted.items() <= own.items()]
        (port,) = [p["port"] for p in service["spec"]["ports"]]
        said = " ".join(
            word for c in templates[found]["spec"]["containers"] for word in [*c.get("command", ()), *c.get("args", ())]
        )
        assert f"-p {port}" in said, "a service without a target port leads to its own"
    (policy,) = [d["spec"] for d in APPLIED if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "people"]
    (wanted,) = policy["podSelector"]["matchExpressions"]
    assert [n for n, own in labels.items() if own.get(wanted["key"]) in wanted["values"]] == ["dagster-webserver"]
    (port,) = [p["containerPort"] for p in templates["dagster-webserver"]["spec"]["containers"][0]["ports"]]
    assert port in [p["port"] for p in policy["ingress"][0]["ports"]]


def test_the_instance_is_ours(instance: dict[str, Any]) -> None:
    own = yaml.safe_load((ROOT / "infra" / "dagster.yaml").read_text())
    for key, said in own.items():
        assert over(instance[key], said) == instance[key], key
    for storage in ("run_storage", "event_log_storage", "schedule_storage"):
        database = instance[storage]["config"]["postgres_db"]
        assert database["scheme"] == "postgresql+psycopg2"
        assert database["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    assert instance["compute_logs"]["config"]["bucket"] == "dinov2"


def test_a_run_is_a_job_that_the_namespace_lets_in(
    instance: dict[str, Any], templates: dict[str, dict[str, Any]]
) -> None:
    """What the launcher says of all runs, and what the code server hands to its own."""
    assert instance["run_launcher"]["class"] == "K8sRunLauncher"
    config = instance["run_launcher"]["config"]
    assert config["job_namespace"] == "dinov2"
    assert config["postgres_password_secret"] == "dinov2-postgres"
    pod, container = config["run_k8s_config"]["pod_spec_config"], config["run_k8s_config"]["container_config"]
    assert pod["securityContext"] == templates["user-deployments"]["spec"]["securityContext"]
    assert container["securityContext"] == OURS["dagsterDaemon"]["securityContext"]
    assert pod["priorityClassName"] in {d["metadata"]["name"] for d in APPLIED if d["kind"] == "PriorityClass"}
    (code,) = templates["user-deployments"]["spec"]["containers"]
    variables = {e["name"]: e.get("value") for e in code["env"]}
    assert variables["DAGSTER_CURRENT_IMAGE"] == code["image"]
    handed = json.loads(variables["DAGSTER_CONTAINER_CONTEXT"])["k8s"]
    assert handed["resources"] == code["resources"]
    assert {"cpu", "memory"} <= set(handed["resources"]["requests"])


def test_dagster_takes_the_instance(instance: dict[str, Any], tmp_path: Path) -> None:
    """But for the launcher and the logs, whose packages only the images have, and the database."""
    from dagster._core.instance.ref import InstanceRef

    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    taken = InstanceRef.from_dir(str(tmp_path))
    assert type(taken.scheduler).__name__ == "DagsterDaemonScheduler"
    assert type(taken.run_coordinator).__name__ == "QueuedRunCoordinator"
    for storage in ("run_storage", "event_log_storage", "schedule_storage"):
        module = importlib.import_module(instance[storage]["module"])
        assert hasattr(module, instance[storage]["class"])
