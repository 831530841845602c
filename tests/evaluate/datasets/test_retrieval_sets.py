"""The layouts of retrieval sets, pickled and as JSON, and what a wrong one is told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import retrieval
from tests.evaluate.dense_trees import write


def _picture(path: Path, seed: int) -> None:
    write(path, np.random.default_rng(seed).integers(0, 255, (20, 30, 3)).astype(np.uint8))


def revisited_tree(root: Path) -> Path:
    base = root / "roxford5k"
    gallery, queries = [f"all_souls_{i:06d}" for i in range(5)], ["all_souls_query"]
    for n, stem in enumerate([*gallery, *queries]):
        _picture(base / "jpg" / f"{stem}.jpg", n)
    lists = {"easy": np.array([0]), "hard": np.array([1, 2]), "junk": np.array([], int)}
    content = {"imlist": gallery, "qimlist": queries, "gnd": [{"bbx": [5.2, 4.0, 25.9, 18.0], **lists}]}
    (base / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return root


def test_revisited_reads_the_pickle_or_the_same_as_json(tmp_path: Path) -> None:
    data = retrieval.revisited(revisited_tree(tmp_path), "roxford5k")
    assert (len(data.gallery), len(data.queries), data.boxes) == (5, 1, ((5, 4, 26, 18),))
    assert data.truth[0] == {"easy": (0,), "hard": (1, 2), "junk": ()}
    assert data.query(0, crop=True).shape == (14, 21, 3)
    assert data.query(0, crop=False).shape == (20, 30, 3)
    content = {
        "imlist": [p.stem for p in data.gallery],
        "qimlist": [p.stem for p in data.queries],
        "gnd": [{"bbx": [5, 4, 26, 18], "easy": [0], "hard": [1, 2], "junk": []}],
    }
    (tmp_path / "roxford5k/gnd_roxford5k.pkl").unlink()
    (tmp_path / "roxford5k/gnd_roxford5k.json").write_text(json.dumps(content))
    assert retrieval.revisited(tmp_path / "roxford5k", "roxford5k") == data


def test_revisited_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: jpg"):
        retrieval.revisited(tmp_path, "roxford5k")
    base = revisited_tree(tmp_path) / "roxford5k"
    (base / "jpg/all_souls_000003.jpg").unlink()
    with pytest.raises(UserError, match=r"1 pictures missing, the first is all_souls_000003\.jpg"):
        retrieval.revisited(tmp_path, "roxford5k")
    (base / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": []}))
    with pytest.raises(UserError, match="not the ground truth of roxford5k"):
        retrieval.revisited(tmp_path, "roxford5k")


def test_met_tells_exhibits_from_distractors(tmp_path: Path) -> None:
    for n, name in enumerate(("MET/1/0.jpg", "MET/2/0.jpg", "test_met/0.jpg", "test_other/0.jpg")):
        _picture(tmp_path / "images" / name, n)
    truth = tmp_path / "ground_truth"
    truth.mkdir()
    (truth / "MET_database.json").write_text(
        json.dumps([{"id": 1, "path": "MET/1/0.jpg"}, {"id": 2, "path": "MET/2/0.jpg"}])
    )
    (truth / "testset.json").write_text(
        json.dumps([{"path": "test_met/0.jpg", "MET_id": 2}, {"path": "test_other/0.jpg"}])
    )
    data = retrieval.met(tmp_path)
    assert data.gallery_instances == (1, 2)
    assert data.query_instances == (2, -1)
    (truth / "testset.json").write_text(json.dumps([{"file": "x"}]))
    with pytest.raises(UserError, match="not Met's ground truth"):
        retrieval.met(tmp_path)


def test_amstertime_pairs_by_stem(tmp_path: Path) -> None:
    for n, name in enumerate(("new/10.jpg", "new/11.jpg", "old/11.jpg")):
        _picture(tmp_path / name, n)
    data = retrieval.amstertime(tmp_path)
    assert data.gallery_instances == (0, 1)
    assert data.query_instances == (1,)
    _picture(tmp_path / "old/99.jpg", 9)
    with pytest.raises(UserError, match=r"1 pictures have no partner in new/, the first is 99\.jpg"):
        retrieval.amstertime(tmp_path)


def test_takes_of_the_same_things(tmp_path: Path) -> None:
    for n, name in enumerate(("a/x.png", "a/y.png", "b/y.png", "b/z.png")):
        _picture(tmp_path / name, n)
    assert retrieval.takes(tmp_path, "a", "b").query_instances == (1, -1)
    with pytest.raises(UserError, match="missing: c"):
        retrieval.takes(tmp_path, "a", "c")
