"""The demo's small web: the same bytes every time, truth that matches what is served, sets that do not overlap."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dinov2_core.errors import UserError
from dinov2_core.images.sets import ImageSet
from dinov2_core.images.shards import image_id
from pipelines.demo import web, world


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.build(tmp_path_factory.mktemp("demo") / "world", world.TINY)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def test_the_same_recipe_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    assert contents(world.build(tmp_path / "again", world.TINY)) == contents(built)


def test_a_built_world_is_not_built_again(built: Path) -> None:
    before = (built / "truth.parquet").stat().st_mtime_ns
    world.build(built, world.TINY)
    assert (built / "truth.parquet").stat().st_mtime_ns == before


def test_truth_counts_what_the_recipe_says(built: Path) -> None:
    kinds = Counter(pq.read_table(built / "truth.parquet")["kind"].to_pylist())
    recipe = world.TINY
    assert kinds["cifar"] == recipe.cifar
    assert kinds["copy"] == recipe.small_copies + recipe.large_copies
    assert kinds["leak"] == recipe.leaks
    assert kinds["junk"] == recipe.emoji + recipe.textures
    assert kinds["odd"] == 9


def test_truth_names_the_bytes_that_are_served(built: Path) -> None:
    answers = web.load(built / "site.parquet")
    for row in pq.read_table(built / "truth.parquet").to_pylist():
        if row["image_id"]:
            assert image_id(answers[row["url"]].body) == row["image_id"]


def test_pool_seeds_gallery_and_test_do_not_overlap(built: Path) -> None:
    def ids(name: str) -> set[str]:
        return {image_id(item.data) for item in ImageSet(str(built / name))}

    seeds, gallery, test = ids("seeds/cifar10"), ids("benchmarks/cifar10/train"), ids("benchmarks/cifar10/test")
    assert (len(seeds), len(gallery), len(test)) == (60, 100, 60)
    assert not seeds & gallery
    assert not test & (seeds | gallery)
    origins = {r["origin_id"] for r in pq.read_table(built / "truth.parquet").to_pylist() if r["kind"] == "leak"}
    assert origins <= test


def test_every_source_folder_is_a_batch_with_an_archive(built: Path) -> None:
    for batch in world.BATCHES:
        assert (built / "sources" / batch / "pages.warc.gz").stat().st_size > 100
        assert (built / "sources" / batch / "live.txt").exists()


def test_the_server_answers_by_host_and_misbehaves_as_planted(built: Path) -> None:
    with web.serve(built / "site.parquet", port=8941) as address:

        def get(url: str) -> bytes:
            host, path = url.removeprefix("http://").split("/", 1)
            request = urllib.request.Request(f"http://{address}/{path}", headers={"Host": host})
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bytes(answer.read(2_000_000))

        truth = pq.read_table(built / "truth.parquet").to_pylist()
        row = next(r for r in truth if r["kind"] == "cifar")
        assert image_id(get(row["url"])) == row["image_id"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("http://nowhere.example/x.png")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get("http://odd.example/flaky.jpg")
        assert get("http://odd.example/flaky.jpg")[:2] == b"\xff\xd8"
        assert len(get("http://broken.example/endless.jpg")) == 2_000_000
        with pytest.raises(UserError, match="port 8941 is taken"), web.serve(built / "site.parquet", port=8941):
            pass


def test_the_server_ends_though_whoever_started_this_program_had_it_ignore_the_polite_signal(built: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with web.serve(built / "site.parquet", port=8943):
            assert multiprocessing.active_children()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [child for child in multiprocessing.active_children() if child.daemon]
