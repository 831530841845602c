"""Retrieval, dense and beyond-the-paper protocols from pictures to scores, through the feature cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov2_core.errors import UserError
from dinov2_core.evaluate import (
    beyond_protocol,
    dense_protocol,
    depth,
    protocols,
    retrieval_protocol,
    score_tables,
    segmentation,
)
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets import depth as depth_sets
from dinov2_core.evaluate.datasets import retrieval
from dinov2_core.evaluate.datasets import segmentation as segmentation_sets
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.evaluate.dense_training import Schedule
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.evaluate import dense_trees
from tests.evaluate.datasets.test_retrieval_sets import revisited_tree


@pytest.fixture(scope="module")
def model() -> EvalModel:
    torch.manual_seed(0)
    backbone = VisionTransformer(VitConfig(dim=32, depth=4, heads=2, patch=8, image_size=32, layer_scale=1.0))
    return EvalModel.of(backbone, Preprocessing(32))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(FeatureCache(tmp_path / "cache"))


@pytest.mark.parametrize(
    "name",
    ["revisited", "instances", "segmentation", "segmentation-ms", "depth", "video", "tracking", "ood", "fairness"],
)
def test_protocols_are_registered_under_their_names(name: str) -> None:
    found = protocols.get(name)
    assert found.name == name
    found.options()


def test_revisited_finds_copies_of_the_query(tmp_path: Path, model: EvalModel, context: Context) -> None:
    data = retrieval.revisited(revisited_tree(tmp_path), "roxford5k")
    for i in (0, 1, 2):
        data.gallery[i].write_bytes(data.queries[0].read_bytes())
    whole = retrieval_protocol.RevisitedOptions(crop_queries=False)
    found = retrieval_protocol.run_revisited(model, data, whole, context)
    assert {s.name: s.value for s in found.scores} == {"mAP medium": 1.0, "mAP hard": 1.0}
    cut = retrieval_protocol.run_revisited(model, data, retrieval_protocol.RevisitedOptions(), context)
    assert 0 < cut.named("mAP medium").value <= 1


def test_the_second_run_asks_the_model_nothing(
    tmp_path: Path, model: EvalModel, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = np.kron(rng.integers(0, 240, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        dense_trees.write(tmp_path / "sets/a" / f"{i}.png", pixels)
        dense_trees.write(tmp_path / "sets/b" / f"{i}.png", pixels + np.uint8(3))
    dense_trees.write(tmp_path / "sets/b/unknown.png", np.zeros((32, 32, 3), np.uint8))
    data, options = retrieval.takes(tmp_path / "sets", "a", "b"), retrieval_protocol.InstanceOptions()
    first = retrieval_protocol.run_instances(model, data, options, context)
    assert first.named("mAP").value == 1.0
    assert first.named("gap-").value == 1.0
    assert first.named("gap").n == 7
    monkeypatch.setattr(VisionTransformer, "forward_list", None)
    monkeypatch.setattr(VisionTransformer, "last_layers", None)
    assert retrieval_protocol.run_instances(model, data, options, context) == first


def test_segmentation_and_depth_report_intervals(tmp_path: Path, model: EvalModel, context: Context) -> None:
    schedule = Schedule(steps=20, batch=4, lr=1e-2, warmup=2)
    data = segmentation_sets.folder(dense_trees.masks(tmp_path / "masks", 4))
    settings = replace(segmentation.LINEAR, size=48, augment=False, schedule=schedule)
    found = dense_protocol.run_segmentation(model, data, settings, context).named("mIoU")
    assert 0 < found.low <= found.value <= found.high <= 1
    castle = depth_sets.visp_castle(dense_trees.castle(tmp_path / "castle", 10))
    options = dense_protocol.DepthOptions(
        ("linear",), depth.DepthSettings(size=32, augment=False, bins=16, schedule=schedule)
    )
    rmse = dense_protocol.run_depth(model, castle, options, context).named("rmse linear")
    assert rmse.n == 2
    # Everything lies half a metre away, in a range of one.
    assert rmse.value < 0.1
    with pytest.raises(UserError, match=r"test pictures only.*in the setting `also`"):
        dense_protocol.run_depth(model, depth_sets.sun_rgbd(dense_trees.sun(tmp_path / "sun")), options, context)


def test_a_head_of_one_room_is_tested_on_another_as_the_paper_tests_nyus_on_sun(
    tmp_path: Path, model: EvalModel, context: Context
) -> None:
    nyu = depth_sets.nyu(dense_trees.nyu(tmp_path / "nyu", 1))
    sun = f"sun-rgbd={dense_trees.sun(tmp_path / 'sun')}"
    schedule = Schedule(steps=4, batch=1, lr=1e-2, warmup=1)
    settings = depth.DepthSettings(size=32, augment=False, bins=16, schedule=schedule)
    options = dense_protocol.DepthOptions(("linear",), settings, also=(sun,))
    found = dense_protocol.run_depth(model, nyu, options, context)
    rows = {row["metric"]: row for row in score_tables.rows([found])}
    assert rows["SUN RGB-D: rmse linear"]["paper S"] == 0.477
    assert rows["SUN RGB-D: rmse linear"]["images"] == 1
    assert {"rmse linear", "SUN RGB-D: delta1 linear"} <= rows.keys()
    # The other set by hand: the same head, SUN's own pictures, its range of 8 metres, and nothing cropped away.
    estimator = depth.train_depth(model.backbone, model.preprocessing, nyu, settings)
    pixels, truth = depth_sets.sun_rgbd(tmp_path / "sun").read(depth_sets.sun_rgbd(tmp_path / "sun").test[0])
    expected = np.sqrt(((estimator.predict(pixels).clip(0.001, 8) - truth) ** 2).mean())
    assert found.named("SUN RGB-D: rmse linear").value == pytest.approx(float(expected), rel=1e-5)
    masks = f"masks={dense_trees.masks(tmp_path / 'masks', 1)}"
    with pytest.raises(UserError, match="no depth data"):
        dense_protocol.run_depth(model, nyu, replace(options, also=(masks,)), context)


def _labelled(tmp_path: Path) -> tuple[LabelledSet, Split]:
    rng = np.random.default_rng(0)

    def split(name: str, colours: list[tuple[int, int, int]], count: int) -> Split:
        pictures = []
        for c, colour in enumerate(colours):
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.integers(-20, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                pictures.append(Picture(str(dense_trees.write(tmp_path / name / f"{c}-{i}.png", pixels))))
        return Split(name, tuple(pictures), np.repeat(np.arange(len(colours)), count))

    two = [(220, 30, 30), (30, 30, 220)]
    data = LabelledSet("colours", ("red", "blue"), split("train", two, 12), split("test", two, 6))
    return data, split("outside", [(30, 220, 30)], 8)


def test_a_third_colour_is_unknown(tmp_path: Path, model: EvalModel, context: Context) -> None:
    data, outside = _labelled(tmp_path)
    options = beyond_protocol.OodOptions(k=5)
    found = beyond_protocol.run_ood(model, beyond_protocol.OodSet("green", data, outside), options, context)
    assert found.named("AUROC").value > 0.95
    assert found.named("AUROC").n == 20


def test_accuracy_is_split_by_the_column(tmp_path: Path, model: EvalModel, context: Context) -> None:
    data, _ = _labelled(tmp_path)
    column = tmp_path / "column.txt"
    column.write_text("\n".join(["old"] * 6 + ["new"] * 6))
    found = beyond_protocol.run_fairness(model, data, beyond_protocol.FairnessOptions(str(column), 5), context)
    assert {s.name: s.n for s in found.scores} == {"accuracy new": 6, "accuracy old": 6, "gap": 12}
    with pytest.raises(UserError, match="no column"):
        beyond_protocol.run_fairness(model, data, beyond_protocol.FairnessOptions(), context)
    column.write_text("old\n")
    with pytest.raises(UserError, match="1 values for 12 test images"):
        beyond_protocol.run_fairness(model, data, beyond_protocol.FairnessOptions(str(column)), context)
