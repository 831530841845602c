"""Two processes give what one gives: features, protocols of every kind, errors. One pair of processes does it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov2_core.errors import UserError
from dinov2_core.evaluate import dense_protocol, depth, retrieval_protocol, segmentation, video_protocol
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets import davis, folder, retrieval, video
from dinov2_core.evaluate.datasets import depth as depth_sets
from dinov2_core.evaluate.datasets import segmentation as segmentation_sets
from dinov2_core.evaluate.dense_training import Schedule
from dinov2_core.evaluate.knn_protocol import KNN, KnnOptions
from dinov2_core.evaluate.linear_protocol import LINEAR, LinearOptions
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context, Scores
from dinov2_core.evaluate.shares import in_shares, rows, spread
from dinov2_core.evaluate.tracking import TrackingSettings
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from dinov2_core.train.launch import joined
from tests.evaluate import dense_trees
from tests.evaluate.datasets.test_retrieval_sets import revisited_tree
from tests.evaluate.test_evaluation import tree
from tests.evaluate.test_video import _davis, _ucf

QUICK = Schedule(steps=10, batch=3, lr=1e-2, warmup=2)


def model() -> EvalModel:
    torch.manual_seed(0)
    backbone = VisionTransformer(VitConfig(dim=32, depth=4, heads=2, patch=8, image_size=32, layer_scale=1.0))
    return EvalModel.of(backbone, Preprocessing(32))


def write_sets(root: Path) -> Path:
    """Data of every kind, in their layouts."""
    tree(root / "colours", count=5)
    revisited_tree(root / "revisited")
    dense_trees.masks(root / "masks", 3)
    dense_trees.castle(root / "castle", 10)
    _ucf(root / "ucf")
    _davis(root / "davis")
    return root


def all_protocols(root: Path, context: Context) -> list[Scores]:
    """Every way in which features come to be: split by picture, by batch, by clip, by sequence."""
    one, masks = model(), segmentation_sets.folder(root / "masks")
    linear = replace(segmentation.LINEAR, size=48, schedule=QUICK)
    castle = depth_sets.visp_castle(root / "castle")
    shallow = depth.DepthSettings(size=32, augment=False, bins=16, channels=8, schedule=QUICK)
    colours = folder.load(root / "colours")
    kinds = ("linear", "dpt")
    return [
        KNN.run(one, colours, KnnOptions(k=(3,)), context),
        LINEAR.run(one, colours, LinearOptions(steps=5, batch=5, augment=True), context),
        retrieval_protocol.run_revisited(
            one, retrieval.revisited(root / "revisited", "roxford5k"), retrieval_protocol.RevisitedOptions(), context
        ),
        dense_protocol.run_segmentation(one, masks, replace(linear, augment=False), context),
        dense_protocol.run_segmentation(one, masks, replace(linear, layers=4, scales=(1.0, 1.5), flip=True), context),
        dense_protocol.run_depth(one, castle, dense_protocol.DepthOptions(kinds, shallow), context),
        dense_protocol.run_depth(
            one, castle, dense_protocol.DepthOptions(("linear4",), replace(shallow, augment=True)), context
        ),
        video_protocol.run_video(one, video.ucf101(root / "ucf"), video_protocol.VideoOptions(frames=2), context),
        video_protocol.run_tracking(one, davis.davis(root / "davis"), TrackingSettings(size=64, radius=3), context),
    ]


def plain(results: list[Scores]) -> list[Any]:
    return [[r.protocol, [[s.name, s.value, s.low, s.high, s.n] for s in r.scores]] for r in results]


def _fails_on_the_second(share: tuple[int, int]) -> int:
    if share[0] == 1:
        raise UserError("not a whole picture", where="b.png", todo="replace it")
    return share[0]


def one_rank(root: Path) -> None:
    """What each process of the pair does, and writes down."""
    torch.set_num_threads(1)
    with joined() as process:
        found: dict[str, Any] = {"scores": plain(all_protocols(root, Context(FeatureCache(root / "two"))))}
        found["spread"] = spread(lambda i: (i, i % 2 == process.rank), 5)
        batch = torch.arange(15.0).view(5, 3)
        found["rows"] = rows(lambda part: [part * 2], batch)[0].tolist()
        found["short"] = rows(lambda part: [part + 1], batch[:1])[0].tolist()
        try:
            in_shares(_fails_on_the_second)
        except UserError as error:
            found["error"] = str(error)
        (root / f"rank{process.rank}.json").write_text(json.dumps(found))


Pair = tuple[Path, list[dict[str, Any]], str]


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    where = Path(__file__).parents[2]
    return subprocess.Popen(line, cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The folder of all, what each of two ranks found, and what the command printed that ran beside them."""
    root, one = write_sets(tmp_path_factory.mktemp("sets")), model()
    (root / "w.safetensors").write_bytes(weights.to_bytes(one.backbone, one.preprocessing))
    arguments = ["--weights", str(root / "w.safetensors"), "--protocol", "revisited", "--cache", str(root / "three")]
    arguments += ["--data", f"roxford5k={root / 'revisited'}", "--out", str(root / "out")]
    started = (
        torchrun("tests.evaluate.test_shares", str(root)),
        torchrun("dinov2_core.cli", "evaluate", *arguments),
    )
    said = [process.communicate(timeout=500) for process in started]
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return root, [json.loads((root / f"rank{rank}.json").read_text()) for rank in (0, 1)], said[1][0]


@pytest.mark.slow
def test_two_ranks_give_the_scores_of_one_process_in_every_protocol(pair: Pair) -> None:
    root, ranks, _ = pair
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = plain(all_protocols(root, Context(FeatureCache(root / "one"))))
    finally:
        torch.set_num_threads(threads)
    assert ranks[0]["scores"] == ranks[1]["scores"]
    for (name, ours), (_, theirs) in zip(ranks[0]["scores"], alone, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            # Batches that are cut in two round otherwise in their last bits; nothing else may differ.
            assert one == [other[0], *(pytest.approx(v, abs=2e-5) for v in other[1:4]), other[4]], name


@pytest.mark.slow
def test_work_is_divided_and_known_to_all(pair: Pair) -> None:
    first, second = pair[1]
    assert [i for i, _ in first["spread"]] == [0, 1, 2, 3, 4]
    assert [mine for _, mine in first["spread"]] == [True] * 5
    assert first["spread"] == second["spread"]
    assert first["rows"] == second["rows"] == (torch.arange(15.0).view(5, 3) * 2).tolist()
    assert first["short"] == second["short"] == [[1.0, 2.0, 3.0]]


@pytest.mark.slow
def test_an_error_of_one_rank_is_an_error_of_all(pair: Pair) -> None:
    assert [found["error"] for found in pair[1]] == ["b.png: not a whole picture — replace it"] * 2


@pytest.mark.slow
def test_the_command_under_torchrun_writes_the_scores_once(pair: Pair) -> None:
    root, _, said = pair
    assert said.count("written to") == 1
    written = json.loads((root / "out/scores.json").read_text())
    data = retrieval.revisited(root / "revisited", "roxford5k")
    options = retrieval_protocol.RevisitedOptions()
    alone = retrieval_protocol.run_revisited(model(), data, options, Context(FeatureCache(root / "one")))
    assert [row["value"] for row in written["scores"]] == pytest.approx([s.value for s in alone.scores])


@pytest.mark.slow
def test_local_processes_count_what_one_counts(tmp_path: Path) -> None:
    masks = segmentation_sets.folder(dense_trees.masks(tmp_path / "masks", 3))
    settings = replace(segmentation.LINEAR, size=48, augment=False, schedule=QUICK)
    made = segmentation.train_segmenter(model().backbone, Preprocessing(32), masks, settings)
    assert (segmentation.score(made, masks).table == segmentation.score(made, masks, processes=2).table).all()


def test_one_process_alone_does_all_the_work() -> None:
    assert in_shares(lambda share: share) == [(0, 1)]
    assert spread(np.square, 4) == [0, 1, 4, 9]
    assert spread(np.square, 0, 3) == []
    assert torch.equal(rows(lambda part: [part], torch.ones(2, 2))[0], torch.ones(2, 2))


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
