"""What stages ask an engine for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import Resources
from dinov2_core.stage import StageRun, fingerprint, quality
from dinov2_core.stages import embeddings, registry
from dinov2_core.storage import Store


class Asked(Exception):  # noqa: N818 - a way out of the stage
    pass


@pytest.mark.parametrize(("device", "gpus", "asked"), [("cpu", 1.0, 0.0), ("cuda", 1.0, 1.0), ("cuda", 0.25, 0.25)])
def test_embedding_on_a_gpu_asks_for_it_and_on_a_cpu_does_not(
    tmp_path: Path, device: Any, gpus: float, asked: float
) -> None:
    class Engine:
        def map(self, function: Any, tasks: Any, *, resources: Resources = Resources()) -> Any:
            assert (resources.cpus, resources.gpus) == (1.0, asked)
            assert {task["device"] for task in tasks} == {device}
            raise Asked

    params = embeddings.Params(encoder="some.safetensors", device=device, gpus=gpus)
    spec = registry.get("embeddings")
    run = StageRun(spec, Store(str(tmp_path)), WHOLE, params, "f" * 64, {}, Engine(), lambda *_: None)
    with pytest.raises(Asked):
        embeddings.embed(run, [{"image_id": "a", "shard": "s", "offset": 0, "length": 1}])


def test_vectors_of_a_gpu_are_another_version_and_how_many_share_it_is_not(tmp_path: Path) -> None:
    store, spec = Store(str(tmp_path)), registry.get("embeddings")

    def version(params: embeddings.Params) -> str:
        return fingerprint(spec, params, {}, embeddings.external(store, "b1", params))

    plain = embeddings.Params()
    assert quality(plain) == {"encoder": embeddings.PRELIMINARY}
    gpu = dataclasses.replace(plain, device="cuda")
    assert version(gpu) != version(plain)
    assert version(dataclasses.replace(gpu, gpus=0.5)) == version(gpu)
