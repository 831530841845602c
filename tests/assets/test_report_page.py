"""The check of the report's page: what it lets pass and what it names."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.curation_report import curation_report, page_check, problems, stage_counts
from dinov2_core import manifest
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.storage import Store
from pipelines.resources.lake import Lake

COUNTS = {"references": 9, "stored": 7, "kept": 5, "deduplicated": 4}


def page(extra: str = "", counts: dict[str, int] = COUNTS) -> str:
    marked = "".join(f'<b data-count="{k}" data-value="{v}">{v}</b>' for k, v in counts.items())
    return f"<style>b {{ color: red }}</style><a href='#x'>x</a>{marked}{extra}" + "text " * 1000


def test_a_good_page_has_no_problems() -> None:
    assert problems(page('<img src="data:image/png;base64,AAAA">'), COUNTS) == []


@pytest.mark.parametrize(
    "extra",
    [
        '<img src="https://cdn.example/x.png">',
        "<img SRC=//cdn.example/x.png>",
        '<link rel="stylesheet" href="theme.css">',
        '<a href="javascript:alert(1)">x</a>',
        "<script>alert(1)</script>",
        '<svg><use xlink:href="http://x.example/#y"/></svg>',
        '<p style="background: url(http://x.example)">',
        "<style>@import 'x.css'</style>",
        '<form action="http://x.example"></form>',
    ],
)
def test_every_way_of_asking_is_named(extra: str) -> None:
    assert len(problems(page(extra), COUNTS)) == 1


def test_numbers_that_differ_or_lack_are_named() -> None:
    found = problems(page(counts={**COUNTS, "kept": 6}), COUNTS)
    assert found == ["'kept' is 6 on the page and 5 in its stage"]
    assert problems(page(counts={"stored": 7}), {"stored": 7, "kept": 5}) == [
        "'kept' is None on the page and 5 in its stage"
    ]


def test_an_empty_page_is_named() -> None:
    assert "the page is empty" in problems("<html></html>", {})


@pytest.fixture
def reported(tmp_path: Path) -> Lake:
    """A root where two batches were crawled and the report says so."""
    store = Store(str(tmp_path / "data"))
    upstream = {}
    for stage, partition, counts in (
        ("raw_crawl", "b1", {"references": 5, "stored": 4}),
        ("raw_crawl", "b2", {"references": 4, "stored": 3}),
        ("filtered_set", "b1", {"kept": 3}),
        ("filtered_set", "b2", {"kept": 2}),
        ("deduplicated_set", WHOLE, {"kept": 4}),
    ):
        one = Manifest(stage, partition, "f", {}, {}, (), counts)
        manifest.write(store, one)
        upstream[one.key] = one.hash
    record = store.write_bytes("curation_report/all/report-x-00000.html", page().encode())
    manifest.write(store, Manifest("curation_report", WHOLE, "f", {}, upstream, (record,)))
    (tmp_path / "params.yaml").write_text("{}")
    return Lake(data_root=str(tmp_path / "data"), params_file=str(tmp_path / "params.yaml"))


def test_the_check_adds_up_the_batches_that_the_report_read(reported: Lake) -> None:
    store = reported.store()
    made = manifest.read(store, "curation_report")
    assert made is not None
    manifest.write(store, Manifest("raw_crawl", "b3", "f", {}, {}, (), {"references": 100, "stored": 100}))
    assert stage_counts(store, made) == COUNTS


def test_the_check_runs_as_dagster_runs_it(reported: Lake) -> None:
    defs = dg.Definitions(
        assets=[curation_report],
        asset_checks=[page_check],
        resources={"lake": reported, "engine": 0, "tracking": 0},
        jobs=[dg.define_asset_job("check", selection=dg.AssetSelection.checks(page_check))],
    )
    result = defs.resolve_job_def("check").execute_in_process(instance=dg.DagsterInstance.ephemeral())
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed, evaluation.description
