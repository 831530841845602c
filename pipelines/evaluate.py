"""``python -m pipelines.evaluate``: ``dinov2 evaluate`` that takes ``models:/NAME/VERSION`` (or ``@ALIAS``) as well.

The core knows no model registry; here the URI is resolved to a folder, and the rest is the command's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dinov2_core import cli
from dinov2_core.errors import UserError
from pipelines.resources.tracking import Tracking


def resolve(spec: str, tracking: Tracking) -> str:
    """A ``models:/`` URI → the weights file of that version, fetched; any other text as it is.

    Raises:
        UserError: no such version, or it holds no model of ours.
    """
    if not spec.startswith("models:/"):
        return spec
    tracking.client()
    import mlflow

    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=spec))
    except mlflow.exceptions.MlflowException as error:
        todo = "name a registered version: models:/dinov2/1 or models:/dinov2@champion"
        raise UserError(f"no such model ({type(error).__name__})", where=spec, todo=todo) from error
    found = sorted(folder.rglob("*.safetensors"))
    if len(found) != 1:
        raise UserError(f"{len(found)} files of weights, 1 expected", where=spec, todo="register it by the pipeline")
    return str(found[0])


def main(arguments: Sequence[str]) -> int:
    """``dinov2 evaluate`` with its weights resolved; one line and 1 where that fails."""
    try:
        tracking = Tracking.from_environment()
        return cli.main(["evaluate", *(resolve(argument, tracking) for argument in arguments)])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
