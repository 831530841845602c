"""From weights and a folder to scores: the command, the cache, processes, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from dinov2_core import cli
from dinov2_core.errors import UserError
from dinov2_core.evaluate import evaluation, protocols
from dinov2_core.evaluate.cache import CHUNK, FeatureCache, working
from dinov2_core.evaluate.classification_scores import average_precision, classification_score, mean_per_class
from dinov2_core.evaluate.datasets import folder
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

SETTINGS = {"linear": {"steps": 40, "batch": 16}, "knn": {"k": [3]}, "knn-few-shot": {"shots": [1, 500]}}


def tree(root: Path, *, count: int = 12) -> Path:
    """Two classes, told apart by colour."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, color in (("blue", (20, 40, 220)), ("red", (220, 40, 20))):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(color) + rng.integers(-20, 20, (20 + i % 3, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return root


def model(seed: int = 0) -> EvalModel:
    torch.manual_seed(seed)
    backbone = VisionTransformer(VitConfig(dim=16, depth=2, heads=2, patch=4, image_size=16, layer_scale=None))
    return EvalModel.of(backbone, Preprocessing(16))


class Counted(EvalModel):
    """A model that must not be asked."""

    def probe_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("a forward pass")


def test_the_command_runs_all_protocols_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, one = tree(tmp_path / "set"), model()
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights.to_bytes(one.backbone, one.preprocessing))
    (tmp_path / "s.yaml").write_text(json.dumps({**SETTINGS, "finetune": {"epochs": 1}}))
    arguments = ["evaluate", "--weights", str(file), "--data", str(data), "--out", str(tmp_path / "out")]
    arguments += ["--cache", str(tmp_path / "cache"), "--settings", str(tmp_path / "s.yaml")]
    assert cli.main(arguments) == 0
    said = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {row["protocol"] for row in said["scores"]} >= {"knn", "knn-few-shot", "linear", "logistic"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in said["scores"])
    assert all(row["value"] > 0.9 for row in said["scores"] if row["protocol"] in ("knn", "logistic"))
    assert set(said["skipped"]) >= {n for n in protocols.PROTOCOLS if protocols.get(n).needs != "labelled"}
    assert "| knn | set | k=3 accuracy | 100.0 |" in (tmp_path / "out" / "scores.md").read_text()
    assert "paper's choice" in capsys.readouterr().out
    assert cli.main([*arguments, "--protocol", "kn"]) == 1
    assert "did you mean 'knn'?" in capsys.readouterr().err


def test_the_second_protocol_makes_no_forward_pass(tmp_path: Path) -> None:
    data, context, one = folder.load(tree(tmp_path / "set")), Context(FeatureCache(tmp_path / "c")), model()
    evaluation.evaluate(one, data, ["knn"], context, SETTINGS)
    mute = Counted(one.name, one.backbone, one.preprocessing, one.digest)
    assert len(evaluation.evaluate(mute, data, ["linear", "logistic"], context, SETTINGS).results) == 2
    with pytest.raises(AssertionError, match="forward"):
        evaluation.evaluate(mute, data, ["knn"], Context(FeatureCache(tmp_path / "other")), SETTINGS)


def test_other_weights_sizes_and_images_are_other_features(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", count=2)
    context = Context(FeatureCache(tmp_path / "c"))
    first = probe_features(model(), folder.load(root).test, context)
    assert not np.allclose(first.cls, probe_features(model(1), folder.load(root).test, context).cls)
    assert not np.allclose(first.cls, probe_features(model().with_size(12), folder.load(root).test, context).cls)
    Image.new("RGB", (30, 30), "green").save(root / "test" / "blue" / "0.png")
    assert not np.allclose(first.cls, probe_features(model(), folder.load(root).test, context).cls)
    assert len(list((tmp_path / "c").iterdir())) == 4


@pytest.mark.slow
def test_two_processes_give_the_features_and_scores_of_one(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", count=2)
    data = folder.load(root)
    many = np.arange(CHUNK + 40) % len(data.test)
    split = data.test.take(many)
    one = probe_features(model(), split, Context(FeatureCache(tmp_path / "one")))
    two = probe_features(model(), split, Context(FeatureCache(tmp_path / "two"), processes=2))
    assert np.allclose(one.cls, two.cls, atol=1e-6)
    assert np.allclose(one.mean, two.mean, atol=1e-6)
    again = [
        evaluation.evaluate(
            model(), data, ["knn", "logistic"], Context(FeatureCache(tmp_path / str(n)), processes=n), SETTINGS
        )
        for n in (1, 2)
    ]
    assert again[0].results == again[1].results


def test_a_killed_extraction_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cache, asked = FeatureCache(tmp_path), []
    place, shapes = cache.folder(a=1), {"x": (3 * CHUNK, 2)}

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(start)
        return {"x": np.full((stop - start, 2), start, np.float32)}

    with pytest.raises(KeyboardInterrupt):
        cache.fill(place, shapes, compute)
    assert cache.read(place) is None
    asked.clear()
    cache.fill(place, shapes, compute)
    found = cache.finish(place, {})
    assert asked == [2 * CHUNK]
    assert found["x"][:, 0].tolist() == np.repeat([0, CHUNK, 2 * CHUNK], CHUNK).tolist()
    assert not working(place).exists()


def test_a_broken_test_image_ends_the_evaluation_and_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", count=2)
    file = root / "test" / "red" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"red/1\.png: not a whole picture"):
        evaluation.evaluate(model(), folder.load(root), ["all"], Context(FeatureCache(tmp_path / "c")), SETTINGS)


def test_features_that_are_not_finite_name_their_image(tmp_path: Path) -> None:
    broken = model()
    with torch.no_grad():
        broken.backbone.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"the first is .*train/blue/0.png"):
        evaluation.evaluate(broken, folder.load(tree(tmp_path / "set")), ["knn"], Context(FeatureCache(tmp_path / "c")))


def test_unknown_labels_empty_classes_and_missing_splits_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", count=1)
    (root / "test" / "red").rename(root / "test" / "reed")
    with pytest.raises(UserError, match=r"label 'reed' of .*did you mean 'red'"):
        folder.load(root)
    (root / "train" / "void").mkdir()
    with pytest.raises(UserError, match="void: a class without an image"):
        folder.load(root)
    with pytest.raises(UserError, match="no folder 'train'"):
        folder.load(tmp_path)


def test_a_size_that_is_no_multiple_of_the_patch_is_an_error(tmp_path: Path) -> None:
    one = model()
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights.to_bytes(one.backbone, one.preprocessing))
    with pytest.raises(UserError, match="18 pixels are not a multiple of the patch size 4"):
        EvalModel.load(file, size=18)
    with pytest.raises(UserError, match="no such weights"):
        EvalModel.load(tmp_path / "nothing")


def test_large_inputs_keep_the_margin_of_256_to_224() -> None:
    assert model().with_size(224).resize == 256
    assert model().resize == 16
    assert model().with_size(224).square(np.zeros((300, 400, 3), np.uint8)).shape == (3, 224, 224)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn_with_ties_and_classes_that_do_not_occur(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.choice([0, 1, 3], 50), rng.integers(0, 4, 50)
    assert mean_per_class(predicted, truth) == pytest.approx(
        np.mean([(predicted[truth == c] == c).mean() for c in (0, 1, 3)])
    )
    both = np.r_[truth, 2], np.r_[predicted, 2]
    assert mean_per_class(both[1], both[0]) == pytest.approx(balanced_accuracy_score(*both))
    scores, marks = rng.integers(0, 6, 60) / 5.0, rng.integers(0, 2, 60)
    assert average_precision(scores, marks) == pytest.approx(average_precision_score(marks, scores))
    marks[:10] = -1
    assert average_precision(scores, marks) == pytest.approx(average_precision_score(marks[10:], scores[10:]))
    assert np.isnan(average_precision(scores, np.zeros(60, np.int64)))


def test_intervals_of_every_metric_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    for metric, found, wanted in (
        ("accuracy", truth.copy(), truth),
        ("mean per class", rng.integers(0, 3, 90), truth),
        ("mAP", rng.random((90, 3)), np.eye(3, dtype=np.int64)[truth]),
    ):
        made = classification_score(found, wanted, metric)  # type: ignore[arg-type]
        assert made.low <= made.value <= made.high
