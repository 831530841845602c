"""The flywheel's one switch: the job that lets a registered model embed the pool, on request and within a price.

``sensors.py`` says when another model is champion, and starts re-curation once this job has adopted it.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of ops as objects.
from pathlib import Path
from typing import Any

import dagster as dg

from dinov2_core import adopted_encoder
from dinov2_core.errors import UserError
from dinov2_core.stages import registry
from pipelines import cost, versions
from pipelines.resources.lake import Lake
from pipelines.resources.tracking import Tracking

ADOPTED = "dinov2/adopted"
"""Tag of a run: the version that it adopted."""
SETTING = "champion"


class Adoption(dg.Config):
    """``most_hours``: adopt only if re-embedding and re-curating is estimated at less; 0 shows the estimate and stops.
    ``version``: a registered version; the champion where left out."""

    most_hours: float = 0.0
    version: str = ""


@dg.op(description="Estimates what re-embedding costs and, within `most_hours`, points the embedding stages at it.")
def adopt(context: dg.OpExecutionContext, config: Adoption, lake: Lake, tracking: Tracking) -> None:
    """Adopt a version, or say why not; the run is tagged with what was adopted."""
    try:
        _adopt(context, config, lake, tracking)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _adopt(context: dg.OpExecutionContext, config: Adoption, lake: Lake, tracking: Tracking) -> None:
    from pipelines.evaluate import resolve

    check_setting(lake)
    version = config.version or champion_version(tracking)
    data = Path(resolve(f"models:/{tracking.model_name}/{version}", tracking)).read_bytes()
    store = lake.store()
    price = cost.estimate(context.instance, store, scale=_scale(store, data, version))
    context.add_output_metadata({"version": version, "estimate": str(price), "hours": price.seconds / 3600})
    context.log.info(f"version {version} of {tracking.model_name}: {price}")
    if config.most_hours <= 0:
        context.log.info("nothing was adopted: set most_hours above the estimate to adopt it")
        return
    if price.seconds > config.most_hours * 3600:
        raise UserError(
            f"re-embedding is estimated at {price}, more than the {config.most_hours:g} hours allowed",
            where=f"version {version}",
            todo="raise most_hours",
        )
    adopted_encoder.adopt(store, data, version)
    versions.record_adoption(lake)
    context.instance.add_run_tags(context.run_id, {ADOPTED: version})


def check_setting(lake: Lake) -> None:
    """Raise a UserError unless both embedding stages follow the adopted encoder."""
    for name in cost.ENCODER_STAGES:
        encoder = registry.get(name).load_params(lake.params(name)).encoder
        if encoder != SETTING:
            raise UserError(
                f"the setting is '{encoder}', so that an adopted encoder would change nothing",
                where=f"{name}.encoder",
                todo=f"set it to '{SETTING}' in params.yaml",
            )


def champion_version(tracking: Tracking) -> str:
    """The registered version that carries the alias ``champion``.

    Raises:
        UserError: there is none.
    """
    found = tracking.champion(tracking.client())
    if found is None:
        raise UserError("no version is champion", where=tracking.model_name, todo="register and promote one first")
    return str(found.version)


def _scale(store: Any, data: bytes, version: str) -> float:
    """Work of the new encoder an image, relative to the one that the present embeddings were made with."""
    from dinov2_core import manifest
    from dinov2_core.model import weights

    before = adopted_encoder.read(store)
    if before is not None:
        old = store.read_bytes(before.path)
    else:
        made = manifest.read(store, "preliminary_encoder")
        if made is None:
            return 1.0
        old = store.read_bytes(next(f.path for f in made.files if "/encoder-" in f.path))
    new_work, old_work = (_work(*weights.from_bytes(one, where=f"version {version}")) for one in (data, old))
    return new_work / old_work


def _work(backbone: Any, preprocessing: Any) -> float:
    # A forward pass is two operations a parameter and token, but for attention itself, which is small at these lengths.
    tokens = (preprocessing.size // backbone.config.patch) ** 2 + 1
    return float(sum(p.numel() for p in backbone.parameters()) * tokens)


@dg.job(name="adopt_champion", description="Lets the champion embed the pool; states the cost, and stops above it.")
def adopt_champion() -> None:
    """One step; re-curation follows as a run of its own."""
    adopt()
