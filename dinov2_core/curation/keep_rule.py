"""Which of several copies stays: the one with the most pixels, then the least compressed, then the smallest id.

The DINOv2 paper keeps one image a component and does not say which.
"""

from __future__ import annotations

import numpy as np


def keep_order(pixels: np.ndarray, lengths: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Indices from the best to keep to the worst.

    ``pixels`` int [N] is width × height, ``lengths`` int [N] the stored bytes, ``ids`` [N] texts, or
    numbers in the order of the texts.
    """
    compressed = -lengths / np.maximum(pixels, 1)
    return np.lexsort((ids.astype(str) if ids.dtype == object else ids, compressed, -pixels))
