"""The learner's stages from seeds to an exported model, on a small pool of drawn pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinov2_core import manifest
from dinov2_core.embedder import Embedder
from dinov2_core.errors import ConfigError, UserError
from dinov2_core.manifest import Manifest
from dinov2_core.model import weights
from dinov2_core.stages import distilled_checkpoints
from dinov2_core.stages.evaluation_metrics import read_figures
from dinov2_core.storage import Store
from dinov2_core.train.recipes import demo
from tests.stages.learner import EVALUATION, TRAINING, enlarged, make, pictures, put, road, upstream


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Manifest]]:
    store = Store(str(tmp_path_factory.mktemp("road")))
    upstream(store)
    return store, road(store)


def table(store: Store, made: Manifest, name: str) -> list[dict[str, Any]]:
    return [row for record in made.table(name) for row in store.read_table(record.path).to_pylist()]


def test_embeddings_are_unit_vectors_of_every_kept_image(done: tuple[Store, dict[str, Manifest]]) -> None:
    store, made = done
    rows = table(store, made["embeddings"], "embeddings")
    assert len(rows) == 11
    assert len(made["embeddings"].table("embeddings")) == 3  # tasks of 4
    assert len(table(store, made["seed_embeddings"], "embeddings")) == 12
    norms = [np.linalg.norm(np.array(row["embedding"], np.float32)) for row in rows]
    assert norms == pytest.approx([1.0] * len(rows), abs=5e-3)


def test_history_holds_the_losses_and_no_clock(done: tuple[Store, dict[str, Manifest]]) -> None:
    store, made = done
    rows = table(store, made["pretrained_checkpoint"], "history")
    names = {row["name"] for row in rows}
    assert {"total", "dino_local", "dino_global", "ibot", "koleo", "lr", "momentum"} <= names
    assert {row["step"] for row in rows} == {0, 2, 4, 5}
    assert not any("second" in name or "time" in name for name in names)


def test_metrics_stand_beside_their_controls(done: tuple[Store, dict[str, Manifest]]) -> None:
    store, made = done
    rows = table(store, made["evaluation_metrics"], "metrics")
    models = {"trained", "distilled", "untrained", "pixels", "trained - untrained", "trained - pixels"}
    assert {(r["protocol"], r["model"]) for r in rows} == {(p, m) for p in ("knn", "linear") for m in models}
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows)
    assert {r["count"] for r in rows} == {30}
    value = {(r["protocol"], r["model"]): r["value"] for r in rows}
    difference = value["knn", "trained"] - value["knn", "untrained"]
    assert value["knn", "trained - untrained"] == pytest.approx(difference)


def test_pictures_of_the_trained_model_lie_beside_its_scores(done: tuple[Store, dict[str, Manifest]]) -> None:
    store, made = done
    listed = read_figures(store, made["evaluation_metrics"])
    assert [row["name"] for row in listed] == [
        "patches",
        "knn neighbours",
        "knn k=20 confusion",
        "knn k=20 reliability",
    ]
    sizes = [Image.open(io.BytesIO(store.read_bytes(row["path"]))).size for row in listed if row["path"][-3:] == "png"]
    assert len(sizes) == 2
    assert all(row["dataset"] and row["caption"] for row in listed)
    assert all(store.read_bytes(row["path"]).startswith(b"<svg") for row in listed[2:])


def test_more_protocols_run_on_every_model(done: tuple[Store, dict[str, Manifest]]) -> None:
    store, _ = done
    settings = {"knn": {"k": [3]}, "linear": {"steps": 5, "batch": 8}}
    made = make(store, "evaluation_metrics", {**EVALUATION, "protocols": ["knn", "linear"], "settings": settings})
    rows = table(store, made, "metrics")
    few = {(r["model"], r["metric"]) for r in rows if r["protocol"] == "knn" and r["metric"].startswith("k=")}
    assert few == {(m, "k=3 accuracy") for m in ("trained", "distilled", "untrained")}
    grid = {r["metric"] for r in rows if r["protocol"] == "linear-grid"}
    assert grid == {"accuracy", "paper's choice: accuracy"}
    with pytest.raises(UserError, match="'depth' needs depth data"):
        make(store, "evaluation_metrics", {**EVALUATION, "protocols": ["depth"]})
    make(store, "evaluation_metrics", EVALUATION)


def test_the_exported_folder_embeds_bytes_paths_and_arrays_alike(
    done: tuple[Store, dict[str, Manifest]], tmp_path: Path
) -> None:
    store, made = done
    folder = Path(store.full(made["registered_model"].counts["folder"]))
    embedder = Embedder.load(folder)
    (data, _), *_ = pictures(1, 9)
    (tmp_path / "x.png").write_bytes(data)
    out = embedder([data, tmp_path / "x.png", np.asarray(Image.open(io.BytesIO(data)))])
    assert out.shape == (3, 32)
    assert out.dtype == np.float32
    assert np.array_equal(out[0], out[1])
    assert np.array_equal(out[0], out[2])
    assert np.linalg.norm(out[0]) == pytest.approx(1, abs=1e-5)
    assert embedder([]).shape == (0, 32)


def test_the_card_states_data_scores_and_limits(done: tuple[Store, dict[str, Manifest]]) -> None:
    store, made = done
    folder = made["registered_model"].counts["folder"]
    card = store.read_bytes(f"{folder}/card.md").decode()
    assert "| cls | s | 12 | sample | 20 | 20 |" in card
    assert "| stripes | knn | trained | accuracy |" in card
    for heading in ("## Licence", "## Limits"):
        assert heading in card
    assert "show evaluation images, as far as copies were found: 0 (0 identical, 0 dropped, 0 close)" in card
    assert f"| curated_lvd/all | {made['registered_model'].upstream['curated_lvd/all']} |" in card
    config = json.loads(store.read_bytes(f"{folder}/config.json"))
    assert config["data"]["curated_lvd"]


@pytest.mark.parametrize("bad", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_an_undecodable_image_is_named(done: tuple[Store, dict[str, Manifest]], bad: bytes) -> None:
    store, made = done
    embedder = Embedder.load(store.full(made["registered_model"].counts["folder"]))
    good = pictures(1, 9)[0][0]
    with pytest.raises(UserError, match="image 1"):
        embedder([good, bad])


def test_equal_inputs_give_byte_equal_files(done: tuple[Store, dict[str, Manifest]], store: Store) -> None:
    _, first = done
    upstream(store)
    again = road(store)
    for name, made in first.items():
        assert again[name].to_json() == made.to_json(), name


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_killed_training_resumes_to_the_same_manifest(done: tuple[Store, dict[str, Manifest]], store: Store) -> None:
    _, first = done
    upstream(store)

    def die(step: int, metrics: dict[str, float]) -> None:
        if step >= 4:
            raise Killed

    with pytest.raises(Killed):
        make(store, "pretrained_checkpoint", TRAINING, tracker=die)
    assert manifest.read(store, "pretrained_checkpoint") is None
    seen: list[int] = []
    resumed = make(store, "pretrained_checkpoint", TRAINING, tracker=lambda step, metrics: seen.append(step))
    assert min(seen) == 4, "it lost a checkpoint that was written"
    assert resumed.to_json() == first["pretrained_checkpoint"].to_json()
    assert not store.find("pretrained_checkpoint/all/.progress")


def test_the_high_resolution_stage_goes_on_from_the_trained_network_at_the_larger_grid(
    done: tuple[Store, dict[str, Manifest]], store: Store
) -> None:
    upstream(store)
    made = make(
        store, "pretrained_checkpoint", TRAINING | {"high_resolution": {"size": 50, "steps": 2, "base_lr": 1e-9}}
    )
    (before,), (after,) = (
        [f.path for f in m.files if "/teacher-" in f.path] for m in (done[1]["pretrained_checkpoint"], made)
    )
    small, _ = weights.from_bytes(done[0].read_bytes(before))
    large, preprocessing = weights.from_bytes(store.read_bytes(after))
    assert (large.config.image_size, preprocessing.size) == (48, 48)  # 12 patches of 4
    assert large.pos_embed.shape[1] == 1 + 12 * 12
    # At this learning rate nothing moves, so what it started from is what it has.
    assert torch.allclose(large.blocks[0].attn.qkv.weight, small.blocks[0].attn.qkv.weight, atol=1e-6)


def test_a_named_student_is_trained_by_the_papers_constants(
    done: tuple[Store, dict[str, Manifest]], store: Store
) -> None:
    upstream(store)
    make(store, "pretrained_checkpoint", TRAINING)
    changes = {"model.dim": 16, "model.heads": 1, "model.depth": 1, "steps": 2, "batch": 8}
    made = make(store, "distilled_checkpoints", {"students": ["vit_small", "vit_base"], "overrides": changes})
    for stem in ("recipe", "recipe_vit_base"):
        (path,) = (f.path for f in made.files if f"/{stem}-" in f.path)
        recipe = json.loads(store.read_bytes(path))
        assert recipe["masks"] == {"probability": 1.0, "ratio": [1.0, 1.0]}
        assert recipe["drop_path"] == 0.0
        assert recipe["dino_head"]["prototypes"] == 32, "the teacher's heads"
    stems = {f.path.rsplit("/")[-1].split("-")[0] for f in made.files}
    assert {"student", "student_vit_base", "state", "state_vit_base", "history"} <= stems
    assert {"loss_total", "loss_total_vit_base", "images", "images_vit_base"} <= set(made.counts)
    names = {row["name"] for row in table(store, made, "history")}
    assert {"total", "vit_base.total"} <= names


def test_named_students_have_the_papers_shapes_unless_told_otherwise() -> None:
    made = distilled_checkpoints.recipes_of(distilled_checkpoints.Params(students=("vit_small", "vit_base")), demo())
    assert {name: recipe.model.dim for name, recipe in made.items()} == {"vit_small": 384, "vit_base": 768}
    (small,) = distilled_checkpoints.recipes_of(distilled_checkpoints.Params(), demo()).values()
    assert (small.model.dim, small.steps) == (64, 150)


def test_how_it_is_computed_makes_no_other_version(done: tuple[Store, dict[str, Manifest]], store: Store) -> None:
    upstream(store)
    params = TRAINING | {"efficiency": {"accumulate": 2, "checkpoint_activations": True}}
    made = make(store, "pretrained_checkpoint", params)
    assert made.fingerprint == done[1]["pretrained_checkpoint"].fingerprint
    with pytest.raises(ConfigError, match="did you mean 'accumulate'"):
        make(store, "pretrained_checkpoint", TRAINING | {"efficiency": {"acumulate": 2}})


def test_images_are_streamed_where_they_are_larger_than_the_models_input(store: Store) -> None:
    upstream(store)
    large = [{"data": enlarged(d), "source": "s"} for d, _ in pictures(12, 2)]
    put(store, "curated_lvd", packed=[*large, {"data": b"no picture", "source": "s"}])
    made = make(store, "pretrained_checkpoint", TRAINING | {"workers": 0})
    assert made.counts["images"] == 13
    assert made.counts["undecodable"] == 1


def test_too_few_images_say_what_to_do(store: Store) -> None:
    upstream(store)
    put(store, "curated_lvd", packed=[{"data": d, "source": "s"} for d, _ in pictures(3, 2)])
    with pytest.raises(UserError, match="3 usable images are fewer than one batch of 8"):
        make(store, "pretrained_checkpoint", TRAINING)


def test_an_unknown_setting_names_the_nearest(store: Store) -> None:
    upstream(store)
    with pytest.raises(ConfigError, match=r"optim\.base_lr"):
        make(store, "pretrained_checkpoint", {"overrides": {"optim.bas_lr": 1.0}})


def test_a_corrupt_test_image_is_never_dropped_from_the_score(
    done: tuple[Store, dict[str, Manifest]], store: Store
) -> None:
    upstream(store)
    road(store)
    labelled = [
        {"data": d if i else d[:60], "dataset": "stripes", "split": split, "label": c, "key": f"{split}/{i}"}
        for split, seed in (("train", 3), ("test", 4))
        for i, (d, c) in enumerate(pictures(20, seed))
    ]
    put(store, "benchmark_sets", labelled=labelled)
    with pytest.raises(UserError, match="train/0"):
        make(store, "evaluation_metrics", EVALUATION)
