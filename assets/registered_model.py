"""The registered model: an MLflow model version, candidate at once, champion only when the gate lets it.

The stage (``dinov2_core/stages/registered_model.py``) writes the model folder; registering it is idempotent: the
version is found again by the manifest's hash. The rules are in ``promotion.py``.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets import gate_results, promotion
from assets.factory import stage_asset
from dinov2_core import kept, manifest
from dinov2_core.errors import UserError
from dinov2_core.kept import Kept
from dinov2_core.locks import partition_lock
from dinov2_core.manifest import Manifest

# Tags of the registry's: see ``champions.py`` and ``registry.py`` in ``pipelines/resources``.
TAKEN_BACK, MODEL_ID = "rolled_back", "model_id"


def register(context: dg.AssetExecutionContext, lake: Any, tracking: Any, made: Manifest) -> Mapping[str, Any]:
    """Register the model folder once, and give it the alias ``champion`` if it embeds and the gate lets it."""
    store = lake.store()
    client = tracking.answering()
    metrics = store.read_table(_evaluation(store).table("metrics")[0].path).to_pylist()
    # One at a time: of two that found no version each would register one.
    with partition_lock(store, made.stage, made.partition):
        version = tracking.find_version(client, made.hash)
        if version is None:
            version = _register(context, store, tracking, client, made, metrics)
        tracking.name_candidate(client, version)
    # From now on `dinov2 gc` keeps what this version was made from.
    who = f"model {tracking.model_name} version {version.version}"
    kept.pin(store, f"{tracking.model_name}-{version.version}", Kept(made.hash, "registered_model", who))
    # Its own check comes after the asset, too late for the gate.
    works, said = embeds(tracking, version.version)
    gates = gate_results.not_passed(
        context.instance, gate_results.check_keys(gate_results.upstream("registered_model"))
    )
    evidence = promotion.Evidence(
        leaks=made.counts.get("leaks"),
        gates=gates if works else [f"registered_model:embeds ({said})", *gates],
        taken_back=version.tags.get(TAKEN_BACK, ""),
    )

    def judge(champion: Any | None) -> promotion.Verdict:
        before = _scores(client, champion) if champion is not None and champion.version != version.version else {}
        return promotion.decide(
            metrics, before, evidence, wanted=made.params["wanted"], minimum_gain=made.params["minimum_gain"]
        )

    verdict = tracking.champions(client).promote(str(version.version), judge)
    if not verdict.promote:
        context.log.warning(f"not promoted to champion: {verdict.reason}")
    now = tracking.champion(client)
    return {
        "model": tracking.model_name,
        "version": str(version.version),
        "champion": now is not None and now.version == version.version,
        "gate": verdict.reason,
    }


def _register(
    context: dg.AssetExecutionContext, store: Any, tracking: Any, client: Any, made: Manifest, metrics: Any
) -> Any:
    trained = manifest.read(store, "pretrained_checkpoint")
    assert trained is not None, "the stage has read it"
    run = tracking.find_run(client, "pretrained_checkpoint", trained.fingerprint)
    if run is None:
        # By these tags the next process finds it, should this one be killed.
        names = {"stage": trained.stage, "fingerprint": trained.fingerprint}
        run = client.create_run(tracking.experiment_id(client), tags=names)
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        for record in made.files:
            (Path(folder) / record.path.rsplit("/", 1)[-1]).write_bytes(store.read_bytes(record.path))
        return tracking.register(
            client,
            folder,
            run_id,
            made.hash,
            promotion.scores(metrics),
            {"dagster.run_id": context.run_id, "data": made.upstream["curated_lvd/all"]},
        )


def _evaluation(store: Any) -> Manifest:
    found = manifest.read(store, "evaluation_metrics")
    assert found is not None, "the stage has read it"
    return found


def _scores(client: Any, version: Any) -> Mapping[str, float]:
    logged = version.tags.get(MODEL_ID)
    if logged is None:  # Nothing of ours registered it, or an older release did.
        raise UserError(
            f"version {version.version} of {version.name} does not say which logged model has its scores",
            where="registered_model: the version to compare with",
            todo=f"give it the tag `{MODEL_ID}`, or take the alias `champion` from it",
        )
    model = client.get_logged_model(logged)
    return {m.key: m.value for m in model.metrics or []}


def embeds(tracking: Any, version: Any) -> tuple[bool, str]:
    """Load a version as a user would and embed one image: ``(whether that gave a unit vector, what came)``."""
    import mlflow
    import numpy as np

    model = mlflow.pyfunc.load_model(f"models:/{tracking.model_name}/{version}")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    vectors = np.asarray(model.predict([image]))
    norm = float(np.linalg.norm(vectors[0]))
    return vectors.ndim == 2 and abs(norm - 1) < 1e-3, f"one image → {vectors.shape}, norm {norm:.4f}"


registered_model = stage_asset("registered_model", after=register)


@dg.asset_check(
    asset="registered_model",
    name="embeds",
    description="The version loads from the registry and gives unit vectors for one image.",
    blocking=True,
)
def embeds_check(lake: dg.ResourceParam[Any], tracking: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
    """The version of the present manifest."""
    made = manifest.read(lake.store(), "registered_model")
    assert made is not None, "the check runs after its asset"
    version = tracking.find_version(tracking.client(), made.hash)
    if version is None:
        return dg.AssetCheckResult(passed=False, description=f"no model version carries manifest {made.hash[:12]}")
    passed, said = embeds(tracking, version.version)
    return dg.AssetCheckResult(passed=passed, description=said, metadata={"version": str(version.version)})
