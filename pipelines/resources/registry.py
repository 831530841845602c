"""The registered model in MLflow: its versions, with their code, scores and card, and the aliases that they carry.

Who becomes champion is in ``champions.py``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import dinov2_core

log = logging.getLogger(__name__)

CANDIDATE = "candidate"
MODEL_ID = "model_id"
"""Tag of a version: the logged model, on which the scores hang. Versions that are looked up do not say it."""
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
SERVED = ("__init__.py", "config.py", "embedder.py", "errors.py", "images/__init__.py", "images/decode.py", "model")
"""What of ``dinov2_core`` a logged model brings along, so that it needs no other package of ours."""
REQUIREMENTS = ("mlflow", "numpy", "pillow", "safetensors", "torch")


def versions(client: Any, name: str, **tags: str) -> list[Any]:
    """All versions of a registered model that have these tags, the oldest first."""
    wanted = " and ".join([f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())])
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(wanted, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda one: int(one.version))


def aliased(client: Any, name: str, alias: str) -> Any | None:
    """The version that carries ``alias``, or None; an error that is not "there is none" is raised."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except errors() as error:
        # "Not found" of an alias comes as an invalid parameter.
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def find_version(client: Any, name: str, manifest_hash: str) -> Any | None:
    """The registered model version made from this manifest, or None."""
    found = versions(client, name, manifest=manifest_hash)
    return found[0] if found else None


def register(
    client: Any,
    name: str,
    folder: str,
    run_id: str,
    manifest_hash: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> Any:
    """Log the model in ``folder`` under a training's run and register it as candidate; returns the model version.

    Code goes by path and weights as safetensors: nothing is pickled. The card becomes the version's description. What a
    killed process logged is taken if it is whole; of several at once the caller lets one in.
    """
    import mlflow

    about = {"manifest": manifest_hash, **tags}
    with mlflow.start_run(run_id=run_id):
        model_id, known = _left_behind(client, run_id, manifest_hash)
        model_id = model_id or _log_model(folder, about)
        mlflow.log_metrics({key: value for key, value in metrics.items() if key not in known}, model_id=model_id)
    if not _exists(client, name):
        client.create_registered_model(name)
    card = Path(folder) / "card.md"
    # One call, so that nobody ever sees a version without its manifest.
    version = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags={**about, MODEL_ID: model_id},
        description=card.read_text() if card.exists() else None,
        model_id=model_id,
    )
    name_candidate(client, version)
    return version


def name_candidate(client: Any, version: Any) -> None:
    """Give a version the alias ``candidate`` unless a newer one has it: who registered it may have been killed."""
    held = aliased(client, version.name, CANDIDATE)
    if held is None or int(held.version) < int(version.version):
        client.set_registered_model_alias(version.name, CANDIDATE, version.version)


def _left_behind(client: Any, run_id: str, manifest_hash: str) -> tuple[str, set[str]]:
    """The whole logged model of a process that was killed before it registered one, and the scores that it has.

    Empty where there is none; those that were being written are deleted.
    """
    experiment = client.get_run(run_id).info.experiment_id
    found = "", set[str]()
    for model in client.search_logged_models([experiment], f"tags.manifest = '{manifest_hash}'"):
        if str(model.status) == "READY" and not found[0]:
            found = model.model_id, {metric.key for metric in model.metrics or []}
        else:
            client.delete_logged_model(model.model_id)
    return found


def _log_model(folder: str, about: Mapping[str, str]) -> str:
    import mlflow

    pixels = [[[0, 0, 0]] * 4] * 4
    with tempfile.TemporaryDirectory() as code:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL_CODE),
            artifacts={"model": folder},
            code_paths=[served_code(Path(code))],
            pip_requirements=requirements(),
            input_example=([pixels], {"output": "cls", "normalise": True}),
            tags=dict(about),
        )
    return str(info.model_id)


def served_code(folder: Path) -> str:
    """A copy of the part of ``dinov2_core`` that :data:`SERVED` names, below ``folder``."""
    source, target = Path(dinov2_core.__file__).parent, folder / "dinov2_core"
    for name in SERVED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / name, target / name)
    return str(target)


def requirements() -> list[str]:
    """The packages that a logged model needs, at the versions of this environment."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS]


def _exists(client: Any, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except errors() as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def errors() -> type[Exception]:
    """The class of everything that MLflow raises, imported late."""
    from mlflow.exceptions import MlflowException

    return MlflowException
