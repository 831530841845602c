"""The model that MLflow serves, as code by path: images in, embeddings out.

Input: a list of encoded images (bytes), paths, or uint8 arrays [H, W, 3]; or a data frame whose first column holds
them. Output: float32 [N, D], the L2-normalised final class token. MLflow runs this file; nothing imports it.
"""

from __future__ import annotations

from typing import Any

import mlflow

from dinov2_core.embedder import Embedder


class DinoV2(mlflow.pyfunc.PythonModel):
    """Loads the exported folder; depends on the model code only."""

    def load_context(self, context: Any) -> None:
        self.embedder = Embedder.load(context.artifacts["model"])

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        if hasattr(model_input, "iloc"):
            model_input = model_input.iloc[:, 0].tolist()
        return self.embedder(list(model_input))


mlflow.models.set_model(DinoV2())
