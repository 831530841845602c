"""The model that MLflow serves, as code by path: images in, embeddings out. MLflow runs this file; nothing imports it.

Input: a list of images, each the encoded bytes, a path, a ``data:`` URI (bytes in JSON) or RGB pixels ``[H, W, 3]`` as
uint8 array or nested lists; or a data frame of one column that holds them.

Parameters: ``output`` is ``cls`` (float32 ``[N, D]``, the class token after the last norm), ``pooled`` (``[N, D]``, the
mean of the patch tokens) or ``patch`` (``[N, P, D]``, row by row); ``normalise`` (default true) scales each
vector to length 1.
"""

from __future__ import annotations

import base64
import logging
from typing import Any

import mlflow
import numpy as np

from dinov2_core.embedder import Embedder
from dinov2_core.errors import UserError

# The signature below says "one of these", which MLflow notes at every load; the entries are checked here.
logging.getLogger("mlflow.types.type_hints").setLevel(logging.ERROR)


class DinoV2(mlflow.pyfunc.PythonModel):
    """Loads the exported folder; depends on the model code only, which the logged model brings along."""

    def load_context(self, context: Any) -> None:
        self.embedder = Embedder.load(context.artifacts["model"])

    # The annotation is the signature.
    def predict(
        self,
        context: Any,
        model_input: list[bytes | str | list[list[list[int]]]],
        params: dict[str, Any] | None = None,
    ) -> Any:
        options = {"output": "cls", "normalise": True, **(params or {})}
        images = [_image(one, index) for index, one in enumerate(model_input)]
        return self.embedder(images, output=options["output"], normalise=options["normalise"])


def _image(value: Any, index: int) -> Any:
    if isinstance(value, str) and value.startswith("data:"):
        return base64.b64decode(value.partition(",")[2])
    if not isinstance(value, list):
        return value
    try:
        pixels = np.asarray(value)
    except ValueError as error:
        raise UserError("rows of different lengths", where=f"image {index}", todo="give [H, W, 3] pixels") from error
    if pixels.dtype.kind not in "iu" or pixels.size and (pixels.min() < 0 or pixels.max() > 255):  # noqa: RUF021
        raise UserError("pixels are no numbers from 0 to 255", where=f"image {index}", todo="give uint8 RGB")
    return pixels.astype(np.uint8)


mlflow.models.set_model(DinoV2())
