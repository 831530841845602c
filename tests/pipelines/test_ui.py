"""The web interface in a real browser: everything is listed, and one asset is materialised by a click."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from dinov2_core.stages import registry
from pipelines.demo import browser
from pipelines.jobs import JOBS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(browser.executable() is None, reason="no Chromium on the path"),
]
GROUPS = sorted({spec.group for spec in registry.STAGES.values()})
RUN_SECONDS = 60
BACKFILL_SECONDS = 240
"""The daemon looks for new backfills every half minute, and again for what became of their runs."""
BATCHES = ("b1", "b2", "b3", "b4", "b5")

SELECTOR = {"repositoryLocationName": "dinov2", "repositoryName": "__repository__", "pipelineName": "__ASSET_JOB"}
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
ADD = """
mutation Add($location: String!, $repository: String!, $key: String!) {
  addDynamicPartition(
    repositorySelector: { repositoryLocationName: $location, repositoryName: $repository }
    partitionsDefName: "crawl_batches"
    partitionKey: $key
  ) { __typename }
}
"""
BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
PROGRESS = """
query Progress($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status partitionNames runs(limit: 10) { status tags { key value } } error { message } }
  }
}
"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status } } }"
GRAPH = "{ assetNodes { groupName assetKey { path } assetChecksOrError { ... on AssetChecks { checks { name } } } } }"


@dataclass(frozen=True)
class Server:
    """``dagster dev`` on a root of its own, whose settings have one small seed set."""

    url: str
    data: Path

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return dict(found["data"])

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of ``stage`` once its run has written it."""
        path = self.data / stage / "all" / "manifest.json"
        until = time.monotonic() + RUN_SECONDS
        while not path.exists():
            assert time.monotonic() < until, f"{stage} has not been materialised after {RUN_SECONDS} s"
            time.sleep(0.2)
        return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ui")
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "seeds" / label).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "seeds" / label / f"{number}.png")
    for batch in BATCHES:
        place = folder / "data" / "sources" / batch
        place.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(place / "one.png")
    sets = {"sets": [{"name": "toy", "uri": str(folder / "seeds")}]}
    (folder / "params.yaml").write_text(yaml.safe_dump({"seed_sets": sets}))
    home = folder / "dagster"
    home.mkdir()
    settings = (browser.ROOT / "infra" / "dagster.yaml").read_text()
    # Without the invitation that a new instance shows once.
    (home / "dagster.yaml").write_text(f"{settings}\nnux:\n  enabled: false\n")
    env = {
        "DATA_ROOT": str(folder / "data"),
        "DINOV2_PARAMS": str(folder / "params.yaml"),
        "DAGSTER_HOME": str(home),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PYTHONWARNINGS": "ignore",
    }
    with browser.dagster("dagster", "dev", env=env) as url:
        yield Server(url, folder / "data")


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    with browser.page(1600, 1000) as page:
        page.set_default_timeout(30_000)
        yield page


def drawn(page: Any) -> set[str]:
    """The assets that the graph shows; it cuts the middle out of long names."""
    leaves = "Array.from(document.querySelectorAll('foreignObject *'), e => e.childElementCount ? '' : e.innerText)"
    texts = page.evaluate(leaves)
    cut = [text.split("…") for text in set(texts) if text]
    return {
        name
        for name in (*registry.STAGES, "champion")
        if any(name == parts[0] if len(parts) == 1 else _fits(name, parts) for parts in cut)
    }


def _fits(name: str, parts: list[str]) -> bool:
    begins, ends = parts[0], parts[-1]
    return len(begins + ends) > len(name) // 2 and name.startswith(begins) and name.endswith(ends)


def test_the_graph_shows_every_group_and_once_opened_every_asset(server: Server, page: Any) -> None:
    page.goto(f"{server.url}/asset-groups")
    for group in GROUPS:
        page.get_by_title(group, exact=True).first.wait_for()
    page.get_by_text("Materialize all").first.wait_for()
    # Nodes outside of the view are not drawn, and names not where the graph is small: a large window, from a step back.
    page.set_viewport_size({"width": 3200, "height": 2400})
    page.keyboard.press("Alt+e")
    page.mouse.move(1900, 1200)
    page.keyboard.down("Control")
    until = time.monotonic() + RUN_SECONDS
    while missing := {*registry.STAGES, "champion"} - drawn(page):
        assert time.monotonic() < until, f"not in the graph: {sorted(missing)}"
        if len(missing) < len(registry.STAGES) / 2:
            page.mouse.wheel(0, 10)
        page.wait_for_timeout(1000)
    page.keyboard.up("Control")
    page.set_viewport_size({"width": 1600, "height": 1000})


def test_every_job_is_listed(server: Server, page: Any) -> None:
    page.goto(f"{server.url}/jobs")
    for job in JOBS:
        page.get_by_text(job.name, exact=True).first.wait_for()


def test_the_code_location_lists_every_asset_group_and_check(server: Server) -> None:
    nodes = server.ask(GRAPH)["assetNodes"]
    assert {n["assetKey"]["path"][-1]: n["groupName"] for n in nodes} == {
        **{name: spec.group for name, spec in registry.STAGES.items()},
        "champion": "release",
    }
    made = [n for n in nodes if n["assetKey"]["path"][-1] in registry.STAGES]
    checks = {n["assetKey"]["path"][-1]: [c["name"] for c in n["assetChecksOrError"]["checks"]] for n in made}
    assert checks["seed_sets"] == ["labelled_table"]
    assert "page" in checks["curation_report"]
    assert [name for name, found in checks.items() if found == []] == []


def test_one_asset_is_materialised_by_a_click_and_its_check_passes(server: Server, page: Any) -> None:
    assert not (server.data / "seed_sets").exists()
    page.goto(f"{server.url}/assets/seed_sets")
    page.get_by_text("Never materialized").first.wait_for()
    page.get_by_role("button", name="Materialize").first.click()
    made = server.manifest("seed_sets")
    assert made["counts"]["images"] == 6
    page.goto(f"{server.url}/assets/seed_sets?view=checks")
    page.get_by_text("labelled_table").first.wait_for()
    page.get_by_text("Passed").first.wait_for(timeout=RUN_SECONDS * 1000)


def test_one_asset_is_materialised_by_the_mutation_that_the_button_sends(server: Server) -> None:
    shutil.rmtree(server.data / "seed_sets", ignore_errors=True)
    params = {
        "selector": {**SELECTOR, "assetSelection": [{"path": ["seed_sets"]}], "assetCheckSelection": []},
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {"tags": []},
    }
    launched = server.ask(LAUNCH, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    until, status = time.monotonic() + RUN_SECONDS, ""
    while status not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < until, status
        time.sleep(0.3)
        status = server.ask(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]
    assert status == "SUCCESS"
    assert server.manifest("seed_sets")["counts"]["images"] == 6


def test_a_backfill_of_many_batches_as_the_dialog_launches_it_is_one_run(server: Server) -> None:
    where = {"location": SELECTOR["repositoryLocationName"], "repository": SELECTOR["repositoryName"]}
    for batch in BATCHES:
        assert server.ask(ADD, **where, key=batch)["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess"
    params = {"assetSelection": [{"path": ["raw_crawl"]}], "partitionNames": list(BATCHES), "tags": []}
    launched = server.ask(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    found: dict[str, Any] = {"status": ""}
    until = time.monotonic() + BACKFILL_SECONDS
    while not found["status"].startswith(("COMPLETED", "FAILED", "CANCELED")):
        assert time.monotonic() < until, found
        time.sleep(1)
        found = server.ask(PROGRESS, id=launched["backfillId"])["partitionBackfillOrError"]
    assert found["status"] == "COMPLETED_SUCCESS", found
    (run,) = found["runs"]
    assert run["status"] == "SUCCESS"
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert (tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]) == ("b1", "b5")
    made = {batch: json.loads((server.data / f"raw_crawl/{batch}/manifest.json").read_text()) for batch in BATCHES}
    assert [one["counts"]["stored"] for one in made.values()] == [1] * len(BATCHES)
