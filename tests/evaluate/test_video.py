"""Frames of clips that the test writes, the official lists, propagation of masks, and both protocols on them."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dinov2_core.errors import UserError
from dinov2_core.evaluate import frames, tracking, video_features, video_protocol
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets import davis, video
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.evaluate.dense_trees import write


def clip(path: Path, shades: list[int], tint: int = 0) -> Path:
    """A lossless clip whose frames are grey in ``shades``, red by ``tint`` more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr0"
        for shade in shades:
            pixels = np.full((24, 32, 3), shade, np.uint8)
            pixels[..., 0] += np.uint8(tint)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def model() -> EvalModel:
    torch.manual_seed(0)
    backbone = VisionTransformer(
        VitConfig(dim=32, depth=2, heads=2, patch=8, image_size=32, registers=1, layer_scale=1.0)
    )
    return EvalModel.of(backbone, Preprocessing(32))


@pytest.mark.parametrize(("count", "expected"), [(8, list(range(8))), (16, [1, 3, 5, 7, 9, 11, 13, 15]), (1, [0] * 8)])
def test_frames_are_the_middles_of_equal_stretches(count: int, expected: list[int]) -> None:
    assert frames.evenly(count) == expected


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_the_right_frames_are_read_whatever_the_container_states(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"v.{suffix}", [10 * i for i in range(20)])
    found = frames.read(path, 4)
    assert found.shape == (4, 24, 32, 3)
    assert found[:, 0, 0, 0].tolist() == [10 * i for i in frames.evenly(20, 4)]
    assert len(list(frames.all_frames(path))) == 20


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a readable video") as error:
        frames.read(path)
    assert error.value.where == str(path)


def test_average_and_concatenation() -> None:
    features = torch.arange(12.0).view(1, 3, 4)
    assert video_features.join(features, "average").tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert video_features.join(features, "concatenate").tolist() == [list(range(12))]


def _ucf(root: Path) -> Path:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    train, test = [], []
    for number, (name, tint) in enumerate((("Archery", 0), ("Bowling", 90)), 1):
        for i in range(10):
            file = f"{name}/v_{name}_g{i:02d}_c01.avi"
            clip(root / "UCF-101" / file, [40 + 7 * i + 4 * k for k in range(4)], tint)
            (train if i < 7 else test).append(f"{file} {number}" if i < 7 else file)
    (lists / "trainlist01.txt").write_text("\n".join(train))
    (lists / "testlist01.txt").write_text("\n".join(test))
    return root


def test_ucf_by_its_lists_and_the_protocol_tells_red_clips(tmp_path: Path, model: EvalModel) -> None:
    data = video.ucf101(_ucf(tmp_path))
    assert (data.classes, len(data.train), len(data.test)) == (("Archery", "Bowling"), 14, 6)
    context = Context(FeatureCache(tmp_path / "cache"))
    found = video_protocol.run_video(model, data, video_protocol.VideoOptions(frames=2), context)
    assert found.named("accuracy").value == 1.0
    for path in (tmp_path / "UCF-101").rglob("*.avi"):
        assert path.stat().st_size
    with pytest.raises(UserError, match=r"missing: ucfTrainTestlist/trainlist02\.txt"):
        video.ucf101(tmp_path, split=2)
    next((tmp_path / "UCF-101/Archery").iterdir()).unlink()
    with pytest.raises(UserError, match="1 videos missing"):
        video.ucf101(tmp_path)


def test_kinetics_by_id_and_time(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "annotations/train.csv").write_text(f"{head}abseiling,aaa,3,13,train\nzumba,bbb,0,10,train\n")
    (tmp_path / "annotations/val.csv").write_text(f"{head}zumba,ccc,20,30,val\nzumba,ddd,20,30,val\n")
    for file in ("train/abseiling/aaa_000003_000013.mp4", "train/bbb_000000_000010.mp4", "val/ccc_000020_000030.mp4"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=r"1 videos missing, the first is ddd_000020_000030\.mp4"):
        video.kinetics400(tmp_path)
    data = video.kinetics400(tmp_path, missing=True)
    assert data.name == "Kinetics-400 without 1 clips"
    assert [c.label for c in (*data.train, *data.test)] == [0, 1, 1]


def test_something_something_fills_templates(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "20bn-something-something-v2").mkdir()
    names = {"Dropping something": "1", "Holding something": "0"}
    (tmp_path / "labels/labels.json").write_text(json.dumps(names))
    for part, number, template in (("train", 7, "Dropping [something]"), ("validation", 8, "Holding [something]")):
        (tmp_path / f"labels/{part}.json").write_text(json.dumps([{"id": str(number), "template": template}]))
        (tmp_path / f"20bn-something-something-v2/{number}.webm").touch()
    data = video.ssv2(tmp_path)
    assert (data.classes[0], data.train[0].label, data.test[0].label) == ("Holding something", 1, 0)
    assert data.join == "concatenate"
    (tmp_path / "labels/train.json").write_text(json.dumps([{"id": "7", "template": "Eating [something]"}]))
    with pytest.raises(UserError, match="'Eating something' is not in the list"):
        video.ssv2(tmp_path)


def _davis(root: Path) -> Path:
    for name in ("JPEGImages/480p/red", "Annotations/480p/red", "ImageSets/2017"):
        (root / name).mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("red\n")
    rng = np.random.default_rng(0)
    for i in range(5):
        mask = np.zeros((64, 96), np.uint8)
        mask[16:48, 8 + 8 * i : 40 + 8 * i] = 1
        pixels = np.where(mask[..., None] == 1, np.uint8([230, 30, 20]), np.uint8([20, 60, 220]))
        write(root / f"JPEGImages/480p/red/{i:05d}.png", (pixels + rng.integers(0, 20, pixels.shape)).astype(np.uint8))
        write(root / f"Annotations/480p/red/{i:05d}.png", mask)
    return root


def test_an_object_is_followed(tmp_path: Path, model: EvalModel) -> None:
    data = davis.davis(_davis(tmp_path))
    settings = tracking.TrackingSettings(size=64, radius=3)
    context = Context(FeatureCache(tmp_path / "cache"))
    found = video_protocol.run_tracking(model, data, settings, context)
    assert found.named("J").value > 0.8
    assert found.named("J&F").value == pytest.approx((found.named("J").value + found.named("F").value) / 2)


def test_davis_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: JPEGImages/480p"):
        davis.davis(tmp_path)
    _davis(tmp_path)
    (tmp_path / "Annotations/480p/red/00002.png").unlink()
    with pytest.raises(UserError, match=r"1 masks missing, the first is 00002\.png"):
        davis.davis(tmp_path)


def test_labels_go_to_the_most_similar_patch_within_reach() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.nn.functional.normalize(torch.randn(8, 3, 5, generator=generator), dim=0)
    labels = torch.nn.functional.one_hot(torch.arange(15) % 2, 2).T.float().view(2, 3, 5)
    settings = tracking.TrackingSettings(neighbours=1, radius=1)
    torch.testing.assert_close(tracking.propagate(maps, [(maps, labels)], settings), labels)
    moved = tracking.propagate(maps.roll(2, -1), [(maps, labels)], settings)
    assert not torch.equal(moved, labels.roll(2, -1))
    far = tracking.propagate(maps.roll(2, -1), [(maps, labels)], tracking.TrackingSettings(neighbours=1, radius=0))
    torch.testing.assert_close(far, labels.roll(2, -1))
    several = tracking.propagate(maps, [(maps, labels)], tracking.TrackingSettings())
    torch.testing.assert_close(several.sum(dim=0), torch.ones(3, 5))
