"""Quality, NSFW, faces and blur: what is dropped, what is found, what can no longer be seen."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov2_core.curation import blur, onnx_model, quality
from dinov2_core.curation.faces import Face, FaceDetector, scales, suppress
from dinov2_core.curation.nsfw import NsfwClassifier, tiles
from tests.pictures import field, part


def test_entropy_and_sharpness_have_their_known_values() -> None:
    flat = np.full((8, 8), 7, np.uint8)
    halves = np.repeat(np.array([[0], [255]], np.uint8), 8, axis=1).repeat(4, axis=0)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert [quality.entropy(x) for x in (flat, halves, every)] == [0.0, 1.0, 8.0]
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert quality.sharpness(flat) == 0.0
    assert quality.sharpness(board) == pytest.approx((4 * 255) ** 2)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((16, 16), ""),
        ((15, 400), "too small"),
        ((16, 81), "too elongated"),
        ((16, 80), ""),
        ((81, 16), "too elongated"),
    ],
)
def test_size_limits_hold_to_the_pixel(size: tuple[int, int], reason: str) -> None:
    assert quality.size_reason(*size, quality.QualityRules()) == reason


def test_blank_pictures_have_too_little_detail() -> None:
    luma = quality.grey(np.full((32, 32, 3), 200, np.uint8))
    rules = quality.QualityRules()
    assert quality.detail_reason(quality.entropy(luma), quality.sharpness(luma), rules) == "too little detail"
    luma = quality.grey(field(1))
    assert quality.detail_reason(quality.entropy(luma), quality.sharpness(luma), rules) == ""


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.integers(0, 600))
@settings(max_examples=60, deadline=None)
def test_tiles_cover_every_pixel_once(height: int, width: int, side: int) -> None:
    marks = np.zeros((height, width), np.uint8)
    found = tiles(marks, side)
    for tile in found:
        tile += 1
    assert marks.max(initial=0) <= 1
    assert (marks == 1).all() if found else (side == 0 or max(height, width) < 2 * side)


def test_a_sheet_of_small_photographs_does_not_hide_them() -> None:
    plate = part("stdlib") / "img-locomotion-nude-male" / "data" / "image.jpg"
    model = str(part("nsfw"))
    pixels = np.asarray(Image.open(plate).convert("RGB"))
    assert NsfwClassifier(model, tile=0).score(pixels) < 0.1
    assert NsfwClassifier(model).score(pixels) > 0.9
    cat = np.asarray(Image.open(plate.parents[2] / "img-locomotion-house-cat" / "data" / "image.jpg").convert("RGB"))
    assert NsfwClassifier(model).score(cat) < 0.3


def test_scores_do_not_depend_on_the_company() -> None:
    classifier = NsfwClassifier(str(part("nsfw")), batch=3)
    images = [field(i, 32 + 40 * (i % 3), 32) for i in range(7)]
    together = classifier.scores(images)
    alone = np.concatenate([classifier.scores([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.fixture(scope="module")
def solvay() -> np.ndarray:
    with Image.open(part("solvay")) as picture:
        picture.thumbnail((1280, 1280))
        return np.asarray(picture.convert("RGB"))


def test_a_score_does_not_depend_on_the_threads_of_the_process_that_finds_it(
    solvay: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads the last bits differ, and with them the manifest."""
    found = []
    for threads in ("1", "2"):
        monkeypatch.setenv("DINOV2_THREADS", threads)
        onnx_model.session.cache_clear()
        detector = FaceDetector()
        assert detector.session.get_session_options().intra_op_num_threads == 1
        found.append([detector.find(solvay[:480, :480]), detector.find(solvay[100:132, 100:132])])
    onnx_model.session.cache_clear()
    assert found[0] == found[1]


def test_all_faces_of_a_group_photograph_are_found_and_gone_after_the_blur(solvay: np.ndarray) -> None:
    detector = FaceDetector(str(part("centerface")))
    found = detector.find(solvay)
    assert len(found) == 29
    blurred = blur.blur_faces(solvay, found)
    written, extension = blur.encode(blurred, "JPEG")
    again = np.asarray(Image.open(io.BytesIO(written)))
    assert extension == "jpg"
    # A pale shape on a collar may still look a little like a face; nothing is sure any more.
    assert all(face.score < 0.6 for face in detector.find(again))
    # Far from every face nothing has changed.
    assert np.array_equal(blurred[:40, :40], solvay[:40, :40])


def test_overlapping_boxes_are_one_face() -> None:
    boxes = np.array([[0, 0, 10, 10, 0.6], [1, 0, 11, 10, 0.9], [20, 20, 30, 30, 0.7], [0, 0, 3, 3, 0.8]], float)
    assert suppress(boxes, 0.3).tolist() == [1, 3, 2]
    assert suppress(np.zeros((0, 5)), 0.3).tolist() == []


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((32, 32), [96]),
        ((63, 40), [96]),
        ((100, 200), [200, 256]),
        ((640, 480), [640, 320]),
        ((4000, 3000), [1280, 640]),
    ],
)
def test_large_pictures_are_searched_at_two_scales_and_tiny_ones_once(size: tuple[int, int], sides: list[int]) -> None:
    assert scales(*size) == sides


def test_a_blurred_face_holds_only_a_few_averages() -> None:
    """Two pictures that differ only in detail finer than the averages' cells become the same inside the box."""
    board = (np.indices((60, 60)).sum(axis=0) % 2 * 120 - 60)[:, :, None]
    base = np.full((60, 60, 3), 128)
    face = [Face(5, 5, 49, 49, 0.9)]
    first, second = (blur.blur_faces(p.astype(np.uint8), face) for p in (base, base + board))
    inside = np.abs(first[5:54, 5:54].astype(int) - second[5:54, 5:54].astype(int))
    assert inside.max() <= 3


def test_the_blur_has_no_edge_and_ends() -> None:
    ramp = np.tile(np.linspace(0, 255, 200).round().astype(np.uint8)[None, :, None], (200, 1, 3))
    out = blur.blur_faces(ramp, [Face(60, 60, 80, 80, 1.0)]).astype(int)
    assert np.abs(np.diff(out[100, :, 0])).max() <= 12
    assert np.array_equal(out[:30], ramp[:30])
    assert not np.array_equal(out[60:140, 60:140], ramp[60:140, 60:140])


@given(x=st.integers(-50, 120), y=st.integers(-50, 120), w=st.integers(1, 200), h=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_any_box_can_be_blurred(x: int, y: int, w: int, h: int) -> None:
    pixels = field(0, 70, 90)
    out = blur.blur_faces(pixels, [Face(x, y, w, h, 1.0)])
    assert out.shape == pixels.shape
    assert out.dtype == np.uint8


def test_lossless_sources_stay_lossless() -> None:
    pixels = field(3)
    data, extension = blur.encode(pixels, "PNG")
    assert extension == "png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
