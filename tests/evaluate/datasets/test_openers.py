"""Every protocol can be reached from the command line: some named set gives the kind of data that it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov2_core.errors import ConfigError, UserError
from dinov2_core.evaluate import evaluation, protocols, score_tables
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets.openers import BY_KIND, OPENERS
from dinov2_core.evaluate.protocol import Context, Score, Scores
from tests.evaluate import dense_trees
from tests.evaluate.test_evaluation import model, tree


def test_every_protocol_has_a_set_of_its_kind() -> None:
    assert {protocols.get(name).needs for name in protocols.PROTOCOLS} == set(BY_KIND)


@pytest.mark.parametrize("name", OPENERS)
def test_an_empty_folder_is_an_error_that_states_the_form(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected|no folder"):
        evaluation.open_data(f"{name}={tmp_path}")


@pytest.mark.parametrize(
    ("name", "write", "kind"),
    [
        ("masks", dense_trees.masks, "segmentation"),
        ("nyu", dense_trees.nyu, "depth"),
        ("castle", dense_trees.castle, "depth"),
    ],
)
def test_a_named_set_is_of_its_kind(name: str, write: object, kind: str, tmp_path: Path) -> None:
    assert callable(write)
    assert evaluation.open_data(f"{name}={write(tmp_path)}").kind == kind


def test_a_misspelt_set_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'ade20k'"):
        evaluation.open_data("ade20=x")


def test_foreign_pictures_beside_a_folder_are_told_from_it(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "outside").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "outside" / f"{i}.png")
    data = evaluation.open_data(f"unknown={tmp_path}")
    context = Context(FeatureCache(tmp_path / "cache"))
    found = evaluation.evaluate(model(), data, ["ood"], context, {"ood": {"k": 5}}).results[0]
    assert found.named("AUROC").n == 24 + 8
    assert 0 <= found.named("AUROC").value <= 1


def test_settings_of_a_protocol_that_there_is_not_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'linar' .did you mean 'linear'"):
        evaluation.check_settings({"linar": {}})
    with pytest.raises(ConfigError, match="not list"):
        evaluation.check_settings(["linear"])


@pytest.mark.parametrize(
    ("protocol", "dataset", "metric", "papers"),
    [
        ("robustness", "imagenet", "imagenet-real", 86.6),
        ("robustness", "imagenet", "imagenet-v2", 70.9),
        ("robustness", "imagenet", "imagenet-a", 33.5),
        ("corruptions", "imagenet", "mCE", 54.4),
        ("knn", "imagenet", "k=20 accuracy", 79.0),
        ("logistic", "cub", "accuracy", 88.1),
        ("depth", "NYUd", "rmse dpt", 0.356),
    ],
)
def test_the_papers_row_stands_beside_ours(protocol: str, dataset: str, metric: str, papers: float) -> None:
    results = [Scores(protocol, dataset, (Score(metric, 0.5, 0.4, 0.6, 10),))]
    assert score_tables.rows(results)[0]["paper S"] == papers


def test_what_the_paper_did_not_measure_has_no_row() -> None:
    results = [Scores("corruptions", "imagenet", (Score("mean error, not normalised", 0.5, 0.4, 0.6, 10),))]
    assert "paper S" not in score_tables.rows(results)[0]


def test_metres_are_not_shown_in_per_cent() -> None:
    results = [Scores("depth", "NYUd", (Score("rmse dpt", 0.4512, 0.4, 0.5, 10, share=False),))]
    assert "| 0.451 | 0.400 – 0.500 | 10 | 0.356 |" in score_tables.markdown(results, title="x", skipped={})
