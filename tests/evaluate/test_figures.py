"""What stands beside the numbers: figures show the answers they are made from; the page has every file it names."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinov2_core.evaluate import answer_figures, dense_figures, depth, evaluation, evaluation_page, segmentation
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets import depth as depth_sets
from dinov2_core.evaluate.datasets import folder
from dinov2_core.evaluate.datasets import segmentation as segmentation_sets
from dinov2_core.evaluate.dense_training import Schedule
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.patch_figures import patch_figure, some_pictures
from dinov2_core.evaluate.pictures import enlarge, framed, ramp, segmentation_overlay, stack
from dinov2_core.evaluate.protocol import Context, Scores
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.evaluate import dense_trees
from tests.evaluate.test_evaluation import SETTINGS, model, tree


def test_figures_are_files_of_their_kind() -> None:
    pixels = np.full((4, 6, 3), 7, np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(Figure("a", "", pixels).data()))) == pixels).all()
    assert Figure("a", "", pixels).data() == Figure("b", "", pixels.copy()).data()
    assert (Figure("a", "", "<svg/>").suffix, Figure("a", "", "<svg/>").data()) == ("svg", b"<svg/>")


def test_the_matrix_and_the_curve_are_of_the_shares_given() -> None:
    shares = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    matrix, curve = answer_figures.classification_figures("knn", shares, np.array([0, 0, 1]), ["cat", "dog"])
    assert "cat as dog: 1" in str(matrix.drawn)
    assert "dog as cat: 1" in str(matrix.drawn)
    # Confidences .8 and .6, right and wrong, and .9, wrong.
    assert f"{100 * (0.2 + 0.6 + 0.9) / 3:.1f} %" in curve.caption


def test_of_many_classes_those_with_the_most_wrong_answers_are_shown() -> None:
    truth = np.arange(60).repeat(2)
    shares = np.eye(60)[truth]
    shares[[100, 101]] = np.eye(60)[[3, 3]]
    matrix, _ = answer_figures.classification_figures("knn", shares, truth, [f"c{i}" for i in range(60)])
    assert "40 of 60 classes" in matrix.caption
    assert "c50 as c3: 2" in str(matrix.drawn)
    assert "c59 as" not in str(matrix.drawn)


def test_shares_of_logits_sum_to_one() -> None:
    found = answer_figures.softmax(np.array([[0.0, np.log(3)]]))
    assert found[0].tolist() == pytest.approx([0.25, 0.75])


def test_neighbours_are_framed_by_whether_they_are_right() -> None:
    def flat(value: int) -> np.ndarray:
        return np.full((8, 8, 3), value, np.uint8)

    found, right = np.array([[1, 0]]), np.array([[True, False]])
    drawn = answer_figures.neighbour_figure("knn", lambda _: flat(9), lambda i: flat(100 + i), found, right).drawn
    assert isinstance(drawn, np.ndarray)
    assert drawn.shape == (96, 3 * 102 - 6, 3)
    assert [drawn[48, x, 0] for x in (48, 150, 252)] == [9, 101, 100]
    assert tuple(drawn[0, 150]) == answer_figures.RIGHT
    assert tuple(drawn[0, 252]) == answer_figures.WRONG


def test_frames_and_stacks_keep_the_pictures() -> None:
    pixels = np.full((20, 30, 3), 50, np.uint8)
    made = framed(pixels, (255, 0, 0))
    assert made.shape == pixels.shape
    assert (made[2:-2, 2:-2] == 50).all()
    assert (pixels == 50).all()
    assert stack([pixels, made[:, :10]]).shape == (46, 30, 3)


@pytest.fixture(scope="module")
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(dim=32, depth=4, heads=2, patch=8, image_size=32)).eval()


def test_dense_figures_show_the_truth_and_what_the_head_says(tmp_path: Path, backbone: VisionTransformer) -> None:
    quick = Schedule(steps=3, batch=2, warmup=1)
    masks = segmentation_sets.folder(dense_trees.masks(tmp_path / "masks", 2))
    settings = replace(segmentation.LINEAR, size=48, augment=False, schedule=quick)
    made = segmentation.train_segmenter(backbone, Preprocessing(32), masks, settings)
    drawn = dense_figures.segmentation_figure("segmentation", made, masks).drawn
    pixels, truth = masks.read(masks.test[0])
    for place, classes in ((1, truth), (2, made.predict(pixels))):
        small = enlarge(segmentation_overlay(pixels, classes, 2), 160, smooth=True)
        left = place * 166
        assert (drawn[20:140, left : left + 160] == small).all()  # type: ignore[index]
    castle = depth_sets.visp_castle(dense_trees.castle(tmp_path / "castle", 5))
    one = depth.DepthSettings(size=32, augment=False, bins=16, schedule=quick)
    estimator = depth.train_depth(backbone, Preprocessing(32), castle, one)
    shown = dense_figures.depth_figure("linear", estimator, castle).drawn
    # The castle of the tests is flat: its true depth is one colour.
    assert tuple(shown[80, 166 + 80]) == tuple(ramp(np.zeros((1, 1)), low=0, high=0)[0, 0])  # type: ignore[index]


def test_patches_of_a_few_pictures_of_each_kind_of_data(tmp_path: Path, backbone: VisionTransformer) -> None:
    data = folder.load(tree(tmp_path / "set", count=5))
    some = some_pictures(data)
    assert len(some) == 4
    assert (some[0] == data.test.pictures[0].pixels()).all()
    drawn = patch_figure(backbone, Preprocessing(32), some).drawn
    assert drawn.shape == (4 * 134 - 6, 4 * 134 - 6, 3)  # type: ignore[union-attr]
    assert len(some_pictures(segmentation_sets.folder(dense_trees.masks(tmp_path / "masks", 2)))) == 2


def test_the_page_has_every_picture_that_it_names_and_asks_for_nothing_else(tmp_path: Path) -> None:
    data, one = folder.load(tree(tmp_path / "<set>", count=6)), model()
    names = ["knn", "linear", "logistic"]
    found = evaluation.evaluate(one, data, names, Context(FeatureCache(tmp_path / "c")), SETTINGS)
    evaluation.save(found, one, tmp_path / "out", data)
    page = (tmp_path / "out" / evaluation_page.PAGE).read_text()
    files = re.findall(r'src="([^"]+)"', page)
    kinds = ["patches", "knn-neighbours", "confusion", "reliability"]
    assert all(any(kind in file for file in files) for kind in kinds)
    assert len(files) == 1 + 3 + 2 + 2
    assert all((tmp_path / "out" / file).stat().st_size for file in files)
    assert "&lt;set&gt;" in page
    assert "<set>" not in page
    assert "http" not in page
    assert "script" not in page
    evaluation.save(found, one, tmp_path / "plain")
    assert "patches" not in (tmp_path / "plain" / evaluation_page.PAGE).read_text()


def test_figures_are_no_part_of_a_score() -> None:
    assert Scores("knn", "d", ()) == Scores("knn", "d", (), figures=(Figure("a", "", "<svg/>"),))
