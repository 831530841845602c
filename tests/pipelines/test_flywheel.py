"""The flywheel on a real champion: one that the whole tiny pipeline trained, evaluated, registered and promoted."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from dinov2_core import adopted_encoder, manifest
from dinov2_core.images.shards import read_images
from dinov2_core.storage import Store
from pipelines import cost, materialize, sensors
from pipelines.adoption import ADOPTED
from pipelines.definitions import build_defs
from pipelines.resources.alerts import Alerts
from pipelines.resources.lake import Lake
from pipelines.resources.tracking import Tracking
from tests.pipelines.test_sensors import Sent, stale
from tests.pipelines.tiny import Tiny

pytestmark = pytest.mark.slow
BATCHES = ("2026-01", "2026-02", "2026-03")
BY_CHAMPION = "has a new dependency data version: champion"


@dataclass(frozen=True)
class Wheel:
    """A finished tiny run that may be changed, as the processes of a deployment see it."""

    tiny: Tiny
    instance: dg.DagsterInstance
    defs: dg.Definitions

    @property
    def store(self) -> Store:
        return Store(str(self.tiny.data))

    @property
    def folder(self) -> Path:
        return self.tiny.folder

    def adopt(self, most_hours: float) -> Any:
        """Launch the job as its launchpad does."""
        return self.defs.resolve_job_def("adopt_champion").execute_in_process(
            instance=self.instance,
            run_config={"ops": {"adopt": {"config": {"most_hours": most_hours}}}},
            raise_on_error=False,
        )

    def stale(self, name: str, partition: str | None = None) -> list[str]:
        return stale(self, name, partition)  # type: ignore[arg-type]


@pytest.fixture
def wheel(finished: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wheel]:
    shutil.copytree(finished.folder, tmp_path / "copy")
    tiny = Tiny(tmp_path / "copy")
    for name in ("DATA_ROOT", "DINOV2_PARAMS", "DAGSTER_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, tiny.env[name])
    monkeypatch.setenv("DINOV2_WORKERS", "-1")
    monkeypatch.chdir(tiny.folder)
    with dg.DagsterInstance.from_config(str(tiny.folder / "dagster")) as instance:
        yield Wheel(tiny, instance, build_defs(resources={"alerts": Alerts(pause_seconds=0)}))


def tick(wheel: Wheel, sent: Sent) -> dg.SensorResult:
    """The sensor ``champion_changed`` looks; what it found is recorded, as the daemon does."""
    context = dg.build_sensor_context(instance=wheel.instance)
    result = sensors.champion_changed._raw_fn(
        context, lake=Lake.from_environment(), tracking=Tracking.from_environment(), alerts=sent
    )
    assert isinstance(result, dg.SensorResult), result
    for event in result.asset_events:
        wheel.instance.report_runless_asset_event(event)
    return result


def estimate(result: Any) -> dict[str, Any]:
    """What the step of a successful adoption shows."""
    (output,) = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
    return {key: value.value for key, value in output.event_specific_data.metadata.items()}


def test_a_champion_that_the_pipeline_made_embeds_and_curates_the_pool_once_it_is_allowed(wheel: Wheel) -> None:
    import mlflow

    tracking = Tracking.from_environment()
    champion = tracking.champion(tracking.client())
    assert champion is not None, "promoted by the run itself"
    registered = manifest.read(wheel.store, "registered_model")
    assert registered is not None
    assert champion.tags["manifest"] == registered.hash
    before = wheel.tiny.manifests()

    # It is champion: the embeddings are stale because of it, and nothing else happens.
    assert wheel.stale("embeddings", BATCHES[0]) == []
    sent = Sent()
    assert not tick(wheel, sent).run_requests
    assert f"version {champion.version} is champion" in sent[0]
    assert "adopt_champion" in sent[0]
    for batch in BATCHES:
        assert wheel.stale("embeddings", batch) == [BY_CHAMPION]
    assert wheel.stale("seed_embeddings") == [BY_CHAMPION]
    assert materialize.execute("recurate", on=wheel.instance, definitions=wheel.defs).success
    assert wheel.tiny.manifests() == before, "a run in between goes on with the encoder that was adopted, or none"

    # What it would cost is said, and more than is allowed is refused.
    shown = wheel.adopt(0)
    assert shown.success
    images = sum(made.counts["images"] for made in embeddings(wheel))
    assert estimate(shown)["estimate"].startswith(f"{images:,} images in 3 batches, about ")
    assert "never timed" not in estimate(shown)["estimate"]
    hours = estimate(shown)["hours"]
    assert hours > 0
    assert adopted_encoder.read(wheel.store) is None
    refused = wheel.adopt(hours / 2)
    assert not refused.success
    (said,) = materialize.failures(refused)
    assert "more than the" in said
    assert "raise most_hours" in said
    assert adopted_encoder.read(wheel.store) is None
    assert ADOPTED not in refused.dagster_run.tags

    # Allowed, it is adopted: the very weights that were registered.
    allowed = wheel.adopt(hours * 2)
    assert allowed.success
    adopted = adopted_encoder.read(wheel.store)
    assert adopted is not None
    weights = next(f for f in registered.files if f.path.endswith(".safetensors"))
    assert (adopted.version, adopted.sha256) == (str(champion.version), weights.sha256)
    assert hashlib.sha256(wheel.store.read_bytes(adopted.path)).hexdigest() == weights.sha256
    run = wheel.instance.get_run_by_id(allowed.run_id)
    assert run is not None
    request = sensors.encoder_adopted(
        dg.build_run_status_sensor_context(
            sensor_name="encoder_adopted",
            dagster_instance=wheel.instance,
            dagster_run=run,
            dagster_event=dg.DagsterEvent("PIPELINE_SUCCESS", "adopt_champion"),
        )
    )
    assert isinstance(request, dg.RunRequest)

    # The run that follows makes again what an encoder changes, and only that.
    made = materialize.execute("recurate", on=wheel.instance, definitions=wheel.defs, tags=dict(request.tags))
    assert made.success, materialize.failures(made)
    after = wheel.tiny.manifests()
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {*(f"embeddings/{b}" for b in BATCHES), "seed_embeddings/all", "clusters/all", "curated_lvd/all"}
    assert {key.partition("/")[0] for key in changed} == set(cost.affected()), "which is what the price was of"
    for batch in BATCHES:
        assert wheel.stale("embeddings", batch) == []
    assert wheel.stale("seed_embeddings") == []
    assert wheel.stale("pretrained_checkpoint") == ["has a new dependency data version: curated_lvd"]

    # And the vectors are the champion's own, as the registry serves it.
    served = mlflow.pyfunc.load_model(f"models:/{tracking.model_name}@champion")
    ids, vectors = first_vectors(wheel, 4)
    assert np.allclose(served.predict(images_of(wheel, ids)), vectors, atol=2e-3)
    assert "embeds already" in text_of(tick(wheel, Sent()))


def embeddings(wheel: Wheel) -> list[Any]:
    return [manifest.read(wheel.store, "embeddings", batch) for batch in BATCHES]


def first_vectors(wheel: Wheel, count: int) -> tuple[list[str], np.ndarray]:
    """Ids and embeddings of the first images of the first batch."""
    table = wheel.store.read_table(embeddings(wheel)[0].table("embeddings")[0].path).slice(0, count)
    return table.column("image_id").to_pylist(), np.array(table.column("embedding").to_pylist(), np.float32)


def images_of(wheel: Wheel, ids: list[str]) -> list[bytes]:
    """The stored bytes of images of the first batch."""
    made = manifest.read(wheel.store, "filtered_set", BATCHES[0])
    assert made is not None
    rows = {r["image_id"]: r for part in made.table("verdicts") for r in wheel.store.read_table(part.path).to_pylist()}
    return [next(iter(read_images(wheel.store, [rows[one]]))) for one in ids]


def text_of(result: dg.SensorResult) -> str:
    (event,) = result.asset_events
    return str(event.description)
