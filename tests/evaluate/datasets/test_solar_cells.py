"""The solar cells' list, its levels, and the split that is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import solar_cells
from tests.evaluate.dense_trees import write


def test_levels_become_classes_and_every_fourth_picture_a_test(tmp_path: Path) -> None:
    chances = ["0.0", "0.3333333333333333", "0.6666666666666666", "0.0", "1.0", "0.0", "0.0", "1.0"]
    rows = []
    for n, chance in enumerate(chances):
        write(tmp_path / f"images/cell{n:04d}.png", np.full((10, 10), n, np.uint8))
        rows.append(f"images/cell{n:04d}.png  {chance}                 mono")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = solar_cells.load(tmp_path)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 0, 0]
    assert data.test.labels.tolist() == [0, 3]
    assert data.test.pictures[0].pixels().shape == (10, 10, 3)
    (tmp_path / "labels.csv").write_text("images/cell0000.png much mono\n")
    with pytest.raises(UserError, match="line 1 is not"):
        solar_cells.load(tmp_path)
    with pytest.raises(UserError, match=r"missing: labels\.csv, images"):
        solar_cells.load(tmp_path / "images")
