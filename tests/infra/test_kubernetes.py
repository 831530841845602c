"""Manifests hold to the Kubernetes schemas, and to the restricted pod standard, without a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
FOLDER = INFRA / "kubernetes"
VERSION = "1.33"
FILES = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
DOCUMENTS = [d for name in FILES for d in yaml.safe_load_all((FOLDER / name).read_text())]
RAY = next(d for d in DOCUMENTS if d["kind"] == "RayCluster")
CHART = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
DEPLOYMENT = CHART["dagster-user-deployments"]["deployments"][0]


def ray_pods() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", RAY["spec"]["headGroupSpec"]["template"]["spec"]
    for group in RAY["spec"]["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def chart_pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod that the chart makes of a part of its values: it copies these keys as they are."""
    launcher = CHART["runLauncher"]["config"]["k8sRunLauncher"]
    run = {
        "podSecurityContext": launcher["runK8sConfig"]["podSpecConfig"]["securityContext"],
        "securityContext": launcher["runK8sConfig"]["containerConfig"]["securityContext"],
        "priorityClassName": launcher["runK8sConfig"]["podSpecConfig"]["priorityClassName"],
        "image": DEPLOYMENT["image"],
        "resources": DEPLOYMENT["resources"],
        **{k: launcher[k] for k in ("envSecrets", "envConfigMaps", "volumes", "volumeMounts")},
    }
    parts = {"webserver": CHART["dagsterWebserver"], "daemon": CHART["dagsterDaemon"], "code": DEPLOYMENT, "run": run}
    for name, part in parts.items():
        sources = [{"secretRef": s} for s in part["envSecrets"]] + [{"configMapRef": c} for c in part["envConfigMaps"]]
        container = {
            "name": name,
            "image": f"{part['image']['repository']}:{part['image']['tag']}",
            "imagePullPolicy": part["image"]["pullPolicy"],
            "envFrom": sources,
            "securityContext": part["securityContext"],
            "resources": part["resources"],
            "volumeMounts": part.get("volumeMounts", []),
        }
        yield (
            name,
            {
                "containers": [container],
                "securityContext": part["podSecurityContext"],
                "volumes": part.get("volumes", []),
                **({"priorityClassName": part["priorityClassName"]} if "priorityClassName" in part else {}),
            },
        )


PODS = {
    **{f"ray {name}": pod for name, pod in ray_pods()},
    **{f"dagster {name}": pod for name, pod in chart_pods()},
    "mlflow": next(d for d in DOCUMENTS if d["kind"] == "Deployment")["spec"]["template"]["spec"],
}


@pytest.mark.parametrize(
    "body",
    [d for d in DOCUMENTS if "ray.io" not in d["apiVersion"]],
    ids=lambda d: f"{d['kind']} {d['metadata']['name']}",
)
def test_a_manifest_holds_to_its_schema(body: dict[str, Any]) -> None:
    kubernetes_validate.validate(body, VERSION, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_holds_to_its_schema(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": PODS[name]}
    kubernetes_validate.validate(pod, VERSION, strict=True)


def test_the_schemas_refuse_a_misspelt_key() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"container": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSION, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_holds_to_the_restricted_standard(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for volume in pod["volumes"]:
        assert set(volume) & {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}, volume
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"], "a pod without a limit takes its neighbours with it"
        mounted = {m["name"] for m in container.get("volumeMounts", ())}
        assert mounted <= {v["name"] for v in pod["volumes"]}


def test_every_container_asks_for_what_the_quota_counts() -> None:
    """A pod with one that does not, be it one that only waits, is refused."""
    (quota,) = [d["spec"]["hard"] for d in DOCUMENTS if d["kind"] == "ResourceQuota"]
    counted = {key.removeprefix("requests.") for key in quota} - {"nvidia.com/gpu"}
    assert counted == {"cpu", "memory"}
    asked = [c["resources"] for pod in PODS.values() for c in [*pod["containers"], *pod.get("initContainers", ())]]
    asked += [CHART[part]["initContainerResources"] for part in ("dagsterWebserver", "dagsterDaemon")]
    assert all(counted <= set(resources["requests"]) for resources in asked)


def test_priorities_are_defined_and_services_stand_above_batch_work() -> None:
    values = {d["metadata"]["name"]: d["value"] for d in DOCUMENTS if d["kind"] == "PriorityClass"}
    assert values["dinov2-service"] > values["dinov2-training"] > values["dinov2-batch"]
    assert {p["priorityClassName"] for p in PODS.values() if "priorityClassName" in p} <= set(values)


def test_spot_workers_bear_spot_nodes_and_end_within_their_notice() -> None:
    for group in RAY["spec"]["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        assert "dinov2/spot" in [t["key"] for t in spec["tolerations"] if t["effect"] == "NoSchedule"]
        assert spec["terminationGracePeriodSeconds"] < 120
        assert group["minReplicas"] == 0
    gpu = dict(ray_pods())["gpus"]["containers"][0]["resources"]
    assert int(gpu["requests"]["cpu"]) >= 16 * int(gpu["limits"]["nvidia.com/gpu"])


def test_everything_is_closed_that_is_not_opened() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in DOCUMENTS if d["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    outside = policies["outside"]["egress"][0]["to"][0]["ipBlock"]
    assert "169.254.0.0/16" in outside["except"], "the metadata service gives away the node's credentials"
    open_to = policies["people"]["podSelector"]["matchExpressions"][0]
    labels = CHART["dagsterWebserver"]["labels"]
    assert labels[open_to["key"]] in open_to["values"]
    port = CHART["dagsterWebserver"]["service"]["port"]
    assert port in [p["port"] for p in policies["people"]["ingress"][0]["ports"]]
    assert port == CHART["dagsterWebserver"]["readinessProbe"]["httpGet"]["port"]
    assert port >= 1024, "the web server is not root and has no capabilities"


def test_the_clusters_api_is_within_reach() -> None:
    """On most clusters its servers listen on 6443, and policies see that port and not the service's 443."""
    (policy,) = [d["spec"] for d in DOCUMENTS if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "outside"]
    assert {443, 6443} <= {p["port"] for p in policy["egress"][0]["ports"]}


def test_secrets_are_named_and_never_written() -> None:
    assert [d for d in DOCUMENTS if d["kind"] == "Secret"] == []
    text = "\n".join(p.read_text() for p in INFRA.rglob("*") if p.is_file())
    for found in re.findall(r"(?im)^[^#\n:]*(?:password|secret_?key|token)\w*[ \t]*[:=][ \t]*(\S.*)$", text):
        assert re.match(r"\$\{|\{env: |\{valueFrom: |\{runAs|false|\?copy|\$S3|\"\$|dinov2-", found), found


def test_what_the_runbook_makes_by_hand_is_all_that_is_referred_to() -> None:
    made = {d["metadata"]["name"] for d in DOCUMENTS if d["kind"] in ("ConfigMap", "PersistentVolumeClaim")}
    runbook = (INFRA.parent / "docs" / "cluster.md").read_text()
    made |= set(re.findall(r"create (?:secret generic|configmap) ([\w-]+)", runbook))
    text = yaml.safe_dump_all([*DOCUMENTS, *PODS.values()])
    reference = r"(?:secretRef|configMapRef|secretKeyRef|configMap):\n(?:\s+key: \w+\n)?\s+name: ([\w-]+)"
    named = set(re.findall(reference, text))
    named |= set(re.findall(r"claimName: ([\w-]+)", text)) | {CHART["global"]["postgresqlSecretName"]}
    assert named
    assert named <= made


def test_the_chart_says_what_the_instance_file_says() -> None:
    own = yaml.safe_load((INFRA / "dagster.yaml").read_text())
    daemon = CHART["dagsterDaemon"]
    assert daemon["runRetries"] == {
        "enabled": own["run_retries"]["enabled"],
        "maxRetries": own["run_retries"]["max_retries"],
        "retryOnAssetOrOpFailure": own["run_retries"]["retry_on_asset_or_op_failure"],
    }
    seconds = own["run_monitoring"]["free_slots_after_run_end_seconds"]
    assert daemon["runMonitoring"]["freeSlotsAfterRunEndSeconds"] == seconds
    pools = own["concurrency"]["pools"]
    wanted = {"defaultLimit": pools["default_limit"], "granularity": pools["granularity"]}
    assert CHART["concurrency"]["pools"] == wanted
    runs = own["concurrency"]["runs"]
    assert CHART["concurrency"]["runs"] == {
        "maxConcurrentRuns": runs["max_concurrent_runs"],
        "tagConcurrencyLimits": runs["tag_concurrency_limits"],
    }
    assert CHART["additionalInstanceConfig"] == {key: own[key] for key in ("freshness", "nux")}


POD = "image envSecrets envConfigMaps podSecurityContext securityContext resources labels volumes volumeMounts"
KNOWN = {
    "": "global generatePostgresqlPasswordSecret generateCeleryConfigSecret postgresql rabbitmq redis flower ingress "
    "imagePullSecrets computeLogManager scheduler runLauncher pythonLogs dagsterWebserver dagsterDaemon busybox "
    "migrate telemetry serviceAccount retention concurrency additionalInstanceConfig dagster-user-deployments",
    "global": "postgresqlSecretName dagsterHome serviceAccountName celeryConfigSecretName",
    "postgresql": "enabled postgresqlScheme postgresqlHost postgresqlUsername postgresqlPassword postgresqlDatabase "
    "postgresqlParams service image",
    "postgresql.service": "port",
    "rabbitmq": "enabled",
    "redis": "enabled",
    "telemetry": "enabled",
    "serviceAccount": "create name annotations",
    "dagsterWebserver": f"{POD} replicaCount enableReadOnly service readinessProbe initContainerResources",
    "dagsterWebserver.service": "type port annotations",
    "dagsterDaemon": f"{POD} enabled heartbeatTolerance runCoordinator runMonitoring runRetries sensors schedules "
    "initContainerResources",
    "dagsterDaemon.runCoordinator": "enabled type config",
    "dagsterDaemon.runCoordinator.config": "queuedRunCoordinator customRunCoordinator",
    "dagsterDaemon.runCoordinator.config.queuedRunCoordinator": "dequeueIntervalSeconds dequeueNumWorkers "
    "dequeueUseThreads maxConcurrentRuns tagConcurrencyLimits",
    "dagsterDaemon.runMonitoring": "enabled startTimeoutSeconds cancelTimeoutSeconds maxResumeRunAttempts "
    "pollIntervalSeconds freeSlotsAfterRunEndSeconds",
    "dagsterDaemon.runRetries": "enabled maxRetries retryOnAssetOrOpFailure",
    "concurrency": "enabled pools runs",
    "concurrency.pools": "defaultLimit granularity opGranularityRunBuffer",
    "concurrency.runs": "maxConcurrentRuns tagConcurrencyLimits",
    "concurrency.runs.tagConcurrencyLimits": "key value limit",
    "concurrency.runs.tagConcurrencyLimits.value": "applyLimitPerUniqueValue",
    "retention": "enabled sensor schedule autoMaterialize",
    **{f"retention.{kind}": "purgeAfterDays" for kind in ("sensor", "schedule")},
    **{f"retention.{kind}.purgeAfterDays": "skipped success failure started" for kind in ("sensor", "schedule")},
    "dagster-user-deployments": "enabled enableSubchart imagePullSecrets deployments",
    "dagster-user-deployments.deployments": f"{POD} name port codeServerArgs dagsterApiGrpcArgs "
    "includeConfigInLaunchedRuns",
    "dagster-user-deployments.deployments.includeConfigInLaunchedRuns": "enabled",
    "runLauncher": "type config",
    "runLauncher.config": "celeryK8sRunLauncher k8sRunLauncher customRunLauncher",
    "runLauncher.config.k8sRunLauncher": "image imagePullPolicy jobNamespace loadInclusterConfig kubeconfigFile "
    "envConfigMaps envSecrets envVars volumeMounts volumes labels failPodOnRunFailure resources schedulerName "
    "securityContext runK8sConfig",
    "runLauncher.config.k8sRunLauncher.runK8sConfig": "containerConfig podSpecConfig podTemplateSpecMetadata "
    "jobSpecConfig jobMetadata",
    "computeLogManager": "type config",
    "computeLogManager.config": "azureBlobComputeLogManager gcsComputeLogManager s3ComputeLogManager "
    "customComputeLogManager",
    "computeLogManager.config.s3ComputeLogManager": "bucket localDir prefix useSsl verify verifyCertPath endpointUrl "
    "skipEmptyFiles uploadInterval uploadExtraArgs showUrlOnly region",
}
"""Names of keys in the schema of the chart dagster/dagster at 1.13, by where they stand."""
COPIED = (
    r"additionalInstanceConfig"
    r"|.*\.(image|\w*[rR]esources|readinessProbe|labels|\w*[sS]ecurityContext|env\w+|volume\w*|\w+Config)"
)
"""What the chart takes as it is, or Kubernetes' own: pods are held to its schema above."""


def keys(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Where each key of the values stands, and the key; those of a list's members stand where the list does."""
    for member in value if isinstance(value, list) else [value]:
        for key, below in member.items() if isinstance(member, dict) else ():
            yield where, key
            place = f"{where}.{key}".lstrip(".")
            if not re.fullmatch(COPIED, place) or place.endswith(".runK8sConfig"):
                yield from keys(below, place)


def test_every_key_of_the_values_is_one_of_the_charts() -> None:
    """A value under a wrong name is passed over in silence, and the default stands."""
    found = list(keys(CHART))
    assert [f"{where}.{key}" for where, key in found if key not in KNOWN[where].split()] == []


def test_a_misspelt_key_would_be_seen() -> None:
    assert ("concurrency.pools", "limit") in set(keys({"concurrency": {"pools": {"limit": 1}}}))
    assert "limit" not in KNOWN["concurrency.pools"].split()


def test_the_chart_is_of_the_version_of_dagster() -> None:
    text = (INFRA.parent / "docs" / "cluster.md").read_text() + (FOLDER / "dagster-values.yaml").read_text()
    (chart,) = set(re.findall(r"dagster/dagster --version (\S+)", text))
    assert chart in re.findall(r"(?m)^dagster==(\S+)", (INFRA.parent / "requirements.lock").read_text())
    assert chart.startswith("1.13.")
