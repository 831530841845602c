"""Versions move through a real S3 server to a clean clone; what goes wrong on the way is said and can be repeated."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dinov2_core.storage import Store
from tests.flaky_proxy import GoesAway, in_front_of
from tests.pipelines.toy_checkout import Checkout
from tests.weed import BUCKET, Weed, environment

pytestmark = [pytest.mark.s3, pytest.mark.slow]
REMOTE, SHARDS, SHARD_BYTES = "versions", 12, 4 << 20


def objects(weed: Weed) -> list[str]:
    with environment(weed.env):
        return Store(f"s3://{BUCKET}/{REMOTE}").find("")


def test_a_version_goes_up_and_comes_down_and_failures_are_mended_by_the_same_command(
    weed: Weed, tmp_path: Path
) -> None:
    origin = Checkout(tmp_path / "origin").begin()
    origin.dagster()
    # Something to be in the middle of.
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        (origin.folder / f"data/raw_crawl/b1/shard-{number:02d}.tar").write_bytes(rng.bytes(SHARD_BYTES))
    origin.dvc("commit", "--force", "--quiet")
    made = origin.manifests()
    origin.dvc("remote", "add", "--default", "s3", f"s3://{BUCKET}/{REMOTE}")
    origin.dvc("remote", "add", "typo", f"s3://{BUCKET}s/{REMOTE}")
    origin.keep("v1")

    for arguments, env in (
        (("push",), {**weed.env, "AWS_SECRET_ACCESS_KEY": "wrong"}),
        (("push", "-r", "typo"), weed.env),
    ):
        said = origin.dvc(*arguments, fails=True, **env)
        assert "ERROR" in said
        assert "Traceback" not in said
    assert objects(weed) == []

    with in_front_of(weed.ports["s3"], GoesAway(writes=1, pull_the_plug=weed.stop)) as proxy:
        said = origin.dvc("push", "--jobs", "1", fails=True, **{**weed.env, "AWS_ENDPOINT_URL": proxy.url})
    assert proxy.gone
    assert "Traceback" not in said
    weed.start()
    arrived = objects(weed)
    assert len(arrived) == 1, "it was in the middle: of no folder all is there"
    listings = [json.loads((origin.folder / ".dvc/cache" / n).read_text()) for n in arrived if n.endswith(".dir")]
    listed = {f"files/md5/{one['md5'][:2]}/{one['md5'][2:]}" for listing in listings for one in listing}
    assert listed <= set(arrived), "no listing of a folder before its files"

    clone = Checkout(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", str(origin.folder), str(clone.folder)], check=True)
    said = clone.dvc("pull", "--quiet", fails=True, **weed.env)
    assert "Traceback" not in said
    assert clone.manifests() == {}, "half a version is none"

    origin.dvc("push", "--quiet", **weed.env)
    clone.dvc("pull", "--quiet", "raw_crawl", "embeddings", "seed_embeddings", **weed.env)
    assert clone.manifests() == {key: text for key, text in made.items() if not key.startswith("curated_lvd")}
    sent = (origin.folder / "data/raw_crawl/b1/shard-00.tar").read_bytes()
    assert (clone.folder / "data/raw_crawl/b1/shard-00.tar").read_bytes() == sent
    clone.dagster("curated_lvd")
    assert clone.manifests() == made, "the next stage, made from what came down, is the same"
    assert clone.calls() == 3, "only its shards were computed"
