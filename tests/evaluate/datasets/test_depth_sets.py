"""The layouts and units of depth sets, and what a broken one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import depth
from dinov2_core.evaluate.datasets.dense import DepthSet
from tests.evaluate import dense_trees


def test_nyu_is_in_millimetres(tmp_path: Path) -> None:
    data = depth.nyu(dense_trees.nyu(tmp_path))
    assert (len(data.train), len(data.test), data.crop, data.high) == (2, 2, "nyu", 10.0)
    pixels, metres = data.read(data.test[0])
    assert pixels.shape == (480, 640, 3)
    assert (metres.min(), metres.max()) == (1.0, 5.0)


def test_kitti_is_cropped_at_the_bottom_and_leaves_lines_without_truth_out(tmp_path: Path) -> None:
    data = depth.kitti(dense_trees.kitti(tmp_path), crop="garg")
    assert (len(data.train), len(data.test), data.crop) == (1, 1, "garg")
    pixels, metres = data.read(data.test[0])
    assert pixels.shape == (352, 1216, 3)
    # 375 - 352 = 23 rows are cut; of the 30 rows without depth 7 remain.
    assert (metres[:7] == 0).all()
    assert (metres[7:] > 0).all()


def test_sun_undoes_the_rotation_of_bits(tmp_path: Path) -> None:
    data = depth.sun_rgbd(dense_trees.sun(tmp_path))
    _, metres = data.read(data.test[0])
    assert sorted((metres.min(), metres.max())) == [1.0, 5.0]
    assert not data.train


def test_the_castle_keeps_every_fifth_frame(tmp_path: Path) -> None:
    data = depth.visp_castle(dense_trees.castle(tmp_path, 10))
    assert [p.image.stem for p in data.test] == ["Image_0005", "Image_0010"]
    assert data.read(data.test[0])[1] == pytest.approx(np.full((40, 50), 0.5))
    data.test[0].target.write_bytes(b"short")
    with pytest.raises(UserError, match="do not hold"):
        data.read(data.test[0])


@pytest.mark.parametrize("load", [depth.nyu, depth.kitti, depth.sun_rgbd, depth.visp_castle])
def test_an_empty_folder_is_told_what_is_missing(tmp_path: Path, load: object) -> None:
    with pytest.raises(UserError, match="missing: ") as error:
        load(tmp_path)  # type: ignore[operator]
    assert "expected" in error.value.todo


def test_missing_ground_truth_and_odd_lines_are_named(tmp_path: Path) -> None:
    dense_trees.nyu(tmp_path)
    (tmp_path / "test/kitchen_0001/sync_depth_00001.png").unlink()
    with pytest.raises(UserError, match=r"1 ground-truth files missing, the first is sync_depth_00001\.png"):
        depth.nyu(tmp_path)
    (tmp_path / "nyu_test.txt").write_text("only-one-word\n")
    with pytest.raises(UserError, match="line 1 has 1 words"):
        depth.nyu(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.nan, "4 depths are not finite"),
        (-1.0, "negative"),
        (50.0, "no pixel has a depth between"),
        (0.0, "no pixel"),
    ],
)
def test_depths_that_cannot_be_are_refused(tmp_path: Path, values: float, message: str) -> None:
    found = depth.sun_rgbd(dense_trees.sun(tmp_path))
    shape = found.decode(found.test[0].target).shape
    broken = np.full(shape, values if values in (50.0, 0.0) else 1.0, np.float32)
    broken[0, :4] = values
    data = DepthSet("x", (), found.test, lambda _: broken, 0.001, 10.0)
    with pytest.raises(UserError, match=message) as error:
        data.read(data.test[0])
    assert error.value.where == str(data.test[0].target)
