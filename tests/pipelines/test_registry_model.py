"""The logged model: bytes, paths or pixels in, class, patch or pooled vectors out, in a process that has only torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from dinov2_core.embedder import Embedder
from dinov2_core.errors import UserError
from pipelines.resources import registry
from pipelines.resources.tracking import Tracking
from tests.pipelines.tracker import model_folder, tracker

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
MANIFEST = "ab" * 32


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracking, Any, Path]:
    """A tracker with one registered version, and the folder that it was made from."""
    folder = tmp_path_factory.mktemp("registered")
    tracking = tracker(folder)
    client = tracking.client()
    run = client.create_run(tracking.experiment_id(client)).info.run_id
    exported = model_folder(folder / "exported")
    version = tracking.register(client, str(exported), run, MANIFEST, {"s.knn.trained.top1": 0.5}, {"data": "cd" * 32})
    return tracking, version, exported


@pytest.fixture
def served(registered: tuple[Tracking, Any, Path]) -> Any:
    tracking, version, _ = registered
    tracking.client()
    return mlflow.pyfunc.load_model(f"models:/{tracking.model_name}/{version.version}")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_version_is_candidate_with_its_manifest_card_and_scores(registered: tuple[Tracking, Any, Path]) -> None:
    tracking, version, _ = registered
    client = tracking.client()
    found = client.get_model_version_by_alias("dinov2", "candidate")
    assert found.version == version.version
    assert found.tags["manifest"] == MANIFEST
    assert found.description == "# a model\n"
    assert tracking.find_version(client, MANIFEST).version == version.version
    assert tracking.find_version(client, "00" * 32) is None
    scores = {m.key: m.value for m in client.get_logged_model(found.tags[registry.MODEL_ID]).metrics}
    assert scores == {"s.knn.trained.top1": 0.5}
    assert tracking.champion(client) is None, "registering promotes nothing"


def test_weights_are_safetensors_and_nothing_is_pickled(registered: tuple[Tracking, Any, Path]) -> None:
    tracking, version, _ = registered
    tracking.client()
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/dinov2/{version.version}"))
    names = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert ".safetensors" in names
    assert not names & {".pkl", ".pickle", ".pt", ".pth", ".bin"}
    signature = yaml.safe_load((folder / "MLmodel").read_text())["signature"]
    assert {one["name"]: one["default"] for one in json.loads(signature["params"])} == {
        "output": "cls",
        "normalise": True,
    }


def test_bytes_paths_arrays_lists_and_data_uris_give_the_same(served: Any, tmp_path: Path) -> None:
    import base64

    (tmp_path / "x.png").write_bytes(png())
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    given = [png(), str(tmp_path / "x.png"), PIXELS, PIXELS.tolist(), uri]
    out = served.predict(given)
    assert out.shape == (5, 32)
    assert out.dtype == np.float32
    assert all(np.array_equal(row, out[0]) for row in out)
    assert np.array_equal(served.predict(pd.DataFrame({"image": given[:2]})), out[:2])


def test_class_patch_and_pooled_outputs_by_parameter(served: Any, registered: tuple[Tracking, Any, Path]) -> None:
    embedder = Embedder.load(registered[2])
    for output, shape in (("cls", (1, 32)), ("pooled", (1, 32)), ("patch", (1, 16, 32))):
        found = served.predict([PIXELS], params={"output": output, "normalise": False})
        assert found.shape == shape
        assert np.array_equal(found, embedder([PIXELS], output=output, normalise=False))
        unit = served.predict([PIXELS], params={"output": output})
        assert np.allclose(np.linalg.norm(unit, axis=-1), 1, atol=1e-5)
    patches = served.predict([PIXELS], params={"output": "patch", "normalise": False})
    pooled = served.predict([PIXELS], params={"output": "pooled", "normalise": False})
    assert np.allclose(patches.mean(axis=1), pooled, atol=1e-6)


def test_vectors_do_not_depend_on_the_size_of_a_batch(registered: tuple[Tracking, Any, Path]) -> None:
    embedder = Embedder.load(registered[2])
    images = list(np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    for output in ("cls", "patch", "pooled"):
        assert np.allclose(embedder(images, output=output, batch=2), embedder(images, output=output), atol=1e-6)
    assert embedder([], output="patch").shape == (0, 16, 32)


@pytest.mark.parametrize(
    ("images", "params", "said"),
    [
        ([b"no image"], {}, "image 0.*not a usable image"),
        ([PIXELS.tolist(), [[[300, 0, 0]]]], {}, "image 1.*from 0 to 255"),
        ([[[[0.5, 0.5, 0.5]]]], {}, "image 0.*from 0 to 255"),
        (["/none/such.png"], {}, "cannot read the image"),
        ([PIXELS], {"output": "patches"}, r"did you mean 'patch'"),
    ],
)
def test_what_cannot_be_embedded_is_said_in_one_line(served: Any, images: Any, params: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        served.predict(images, params=params)


ALONE = """
import importlib.metadata, sys
sys.path[:] = [p for p in sys.path if not p.rstrip("/") == ROOT]
class Block:
    names = {"dagster", "dvc", "great_expectations", "ray", "faiss", "fastwarc", "selectolax", "s3fs", "onnx",
             "onnxruntime", "torchvision", "timm", "transformers", "aiohttp", "pipelines", "assets"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
# An editable installation is found by a finder of its own.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", type(f).__module__)]
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(FOLDER)
out = model.predict([np.zeros((9, 9, 3), np.uint8)], params={"output": "patch"})
import dinov2_core
assert dinov2_core.__file__.startswith(FOLDER), dinov2_core.__file__
print(out.shape, sorted(m for m in sys.modules if m.startswith(("sklearn", "scipy.sparse"))) == [])
"""


def test_it_loads_with_its_own_code_and_without_the_pipelines_packages(
    registered: tuple[Tracking, Any, Path], tmp_path: Path
) -> None:
    tracking, version, _ = registered
    tracking.client()
    folder = mlflow.artifacts.download_artifacts(f"models:/dinov2/{version.version}", dst_path=str(tmp_path))
    root = str(Path(__file__).resolve().parents[2])
    script = f"ROOT = {root!r}\nFOLDER = {str(Path(folder).resolve())!r}\n" + ALONE
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().startswith("(1, 16, 32)")


def test_its_requirements_are_few_and_pinned(registered: tuple[Tracking, Any, Path]) -> None:
    found = dict(line.split("==") for line in registry.requirements())
    assert set(found) == {"mlflow", "numpy", "pillow", "safetensors", "torch"}
    assert all("+" not in version for version in found.values()), "a local build is in no index"
