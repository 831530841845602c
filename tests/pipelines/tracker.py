"""MLflow on SQLite for tests: one database made once, copied for each test, which saves ten seconds of migrations."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dinov2_core.config import to_plain
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from pipelines.resources.tracking import Tracking


@functools.cache
def _template() -> Path:
    path = Path(tempfile.mkdtemp(prefix="tracker-")) / "mlflow.db"
    tracking = Tracking(uri=f"sqlite:///{path}")
    # Artifacts are to lie beside the copy, not beside the template: each copy makes its own experiment.
    tracking.client().search_experiments()
    return path


def tracker(folder: Path, **settings: Any) -> Tracking:
    """A tracker of its own in ``folder``, quick to send."""
    shutil.copy(_template(), folder / "mlflow.db")
    quick = {"spool": str(folder / "spool"), "every": 0.05, "patience": 20.0, "system_every": 3600.0}
    made = Tracking(uri=f"sqlite:///{folder}/mlflow.db", **{**quick, **settings})
    client = made.client()
    client.create_experiment(made.experiment, artifact_location=(folder / "artifacts").as_uri())
    return made


def model_folder(folder: Path) -> Path:
    """A tiny untrained model as ``registered_model`` exports one."""
    import torch

    torch.manual_seed(0)
    backbone = VisionTransformer(VitConfig(dim=32, depth=1, heads=2, patch=4, image_size=16)).eval()
    preprocessing = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert to_plain(backbone.config)["dim"] == 32
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights.to_bytes(backbone, preprocessing))
    (folder / "card.md").write_text("# a model\n")
    return folder
