"""Centring and whitening of embeddings, fitted to a pool: what all of its images share says nothing about copies.

Whitening by principal components as is usual before similarity search (Jégou and Chum, 2012). Fitted to a sample, with
a little of the mean variance added, so that directions which hardly vary are not blown up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dinov2_core.curation.vectors import Rows, take, unit
from dinov2_core.errors import UserError

SAMPLE = 50_000
_SHRINK = 0.1


def fit(matrix: Rows, *, centre: bool, whiten: bool, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A function float32 [M, D] → float32 [M, D] of unit length; with neither setting the rows as they are.

    Raises:
        UserError: fewer rows than whitening needs.
    """
    if not (centre or whiten) or len(matrix) < 2:
        return lambda rows: rows
    some = take(matrix, np.random.default_rng(seed).permutation(len(matrix))[:SAMPLE]).astype(np.float64)
    mean = some.mean(axis=0)
    if not whiten:
        return lambda rows: unit(rows - mean)
    if len(matrix) <= matrix.shape[1]:
        raise UserError(
            f"whitening {matrix.shape[1]} dimensions needs more images than {len(matrix)}", todo="centre instead"
        )
    values, axes = np.linalg.eigh(np.cov(some - mean, rowvar=False))
    scale = axes / np.sqrt(values.clip(0) + _SHRINK * values.mean())
    return lambda rows: unit((rows - mean) @ scale)
