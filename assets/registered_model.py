"""The registered model: an MLflow model version, and the alias ``champion`` only when the gate passes.

The stage (``dinov2_core/stages/registered_model.py``) writes the model folder; registering it is idempotent: the
version is found again by the manifest's hash.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.factory import stage_asset
from assets.promotion import decide
from dinov2_core import manifest
from dinov2_core.manifest import Manifest


def register(context: dg.AssetExecutionContext, lake: Any, tracking: Any, made: Manifest) -> Mapping[str, Any]:
    """Register the model folder once, and give it the alias ``champion`` if the gate passes."""
    store = lake.store()
    client = tracking.client()
    metrics = store.read_table(_evaluation(store).table("metrics")[0].path).to_pylist()
    version = tracking.find_version(client, made.hash)
    if version is None:
        trained = manifest.read(store, "pretrained_checkpoint")
        assert trained is not None, "the stage has read it"
        run = tracking.find_run(client, "pretrained_checkpoint", trained.fingerprint)
        run_id = run.info.run_id if run else client.create_run(tracking.experiment_id(client)).info.run_id
        with tempfile.TemporaryDirectory() as folder:
            for record in made.files:
                (Path(folder) / record.path.rsplit("/", 1)[-1]).write_bytes(store.read_bytes(record.path))
            version = tracking.register(
                folder,
                run_id,
                made.hash,
                {metric_name(m): m["value"] for m in metrics},
                {"dagster.run_id": context.run_id, "data": made.upstream["curated_lvd/all"]},
            )
    verdict = decide(metrics, _champion_metrics(tracking, client, version.version))
    if verdict.promote:
        client.set_registered_model_alias(tracking.model_name, "champion", version.version)
    else:
        context.log.warning(f"not promoted to champion: {verdict.reason}")
    return {
        "model": tracking.model_name,
        "version": str(version.version),
        "champion": verdict.promote,
        "gate": verdict.reason,
    }


def metric_name(row: Mapping[str, Any]) -> str:
    """``dataset.protocol.model.metric``, of the characters that the tracker takes."""
    return re.sub(r"[^\w\-./ ]", "_", f"{row['dataset']}.{row['protocol']}.{row['model']}.{row['metric']}")


def _evaluation(store: Any) -> Manifest:
    found = manifest.read(store, "evaluation_metrics")
    assert found is not None, "the stage has read it"
    return found


def _champion_metrics(tracking: Any, client: Any, candidate: str) -> Mapping[str, float]:
    champion = tracking.champion(client)
    if champion is None or str(champion.version) == str(candidate):
        return {}
    model = client.get_logged_model(champion.model_id)
    return {m.key: m.value for m in model.metrics or []}


registered_model = stage_asset("registered_model", after=register)


@dg.asset_check(
    asset="registered_model",
    name="embeds",
    description="The version loads from the registry and gives unit vectors for one image.",
    blocking=True,
)
def embeds_check(lake: dg.ResourceParam[Any], tracking: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
    """Load the registered version as a user would and embed one image."""
    import numpy as np

    made = manifest.read(lake.store(), "registered_model")
    assert made is not None, "the check runs after its asset"
    client = tracking.client()
    version = tracking.find_version(client, made.hash)
    if version is None:
        return dg.AssetCheckResult(passed=False, description=f"no model version carries manifest {made.hash[:12]}")
    import mlflow

    model = mlflow.pyfunc.load_model(f"models:/{tracking.model_name}/{version.version}")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    vectors = np.asarray(model.predict([image]))
    norm = float(np.linalg.norm(vectors[0]))
    return dg.AssetCheckResult(
        passed=vectors.ndim == 2 and abs(norm - 1) < 1e-3,
        description=f"one image → {vectors.shape}, norm {norm:.4f}",
        metadata={"version": str(version.version), "width": int(vectors.shape[-1])},
    )
