"""The curation report: its summary in Markdown beside the asset, the page itself as a file, and what must hold of it.

The stage is ``dinov2_core/stages/curation_report.py``.
"""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as objects.
import dagster as dg

from assets.factory import stage_asset
from dinov2_core import manifest
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store

LOADING = ("src", "srcset", "href", "xlink:href", "poster", "data", "action", "formaction", "background")
"""Attributes with which a page asks for something."""
EMPTY_BYTES = 2000


def show(context: dg.AssetExecutionContext, lake: Any, tracking: Any, made: Manifest) -> Mapping[str, Any]:
    """Metadata for the UI: the Markdown summary and where the page lies."""
    store = lake.store()
    summary = next(f for f in made.files if f.path.endswith(".md"))
    page = next(f for f in made.files if f.path.endswith(".html"))
    return {
        "summary": dg.MetadataValue.md(store.read_bytes(summary.path).decode()),
        "page": dg.MetadataValue.path(store.full(page.path)),
    }


curation_report = stage_asset("curation_report", after=show)


@dg.asset_check(
    asset="curation_report",
    name="page",
    description="The page asks nothing of the network, and its numbers are those of the stages it reports on.",
)
def page_check(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
    """The page of the current manifest, read as a browser would."""
    store = lake.store()
    made = manifest.read(store, "curation_report")
    if made is None:
        raise dg.Failure("curation_report has not been materialised", allow_retries=False)
    record = next(f for f in made.files if f.path.endswith(".html"))
    expected = stage_counts(store, made)
    found = problems(store.read_bytes(record.path).decode(), expected)
    return dg.AssetCheckResult(
        passed=not found,
        description="; ".join(found) or "self-contained, and in agreement with the stages",
        metadata={"bytes": record.bytes, "counts": dg.MetadataValue.json(expected)},
    )


def stage_counts(store: Store, made: Manifest) -> dict[str, int]:
    """What the stages themselves counted, over the partitions that the report read."""
    counted = {
        "references": ("raw_crawl", "references"),
        "stored": ("raw_crawl", "stored"),
        "kept": ("filtered_set", "kept"),
        "deduplicated": ("deduplicated_set", "kept"),
    }
    totals = dict.fromkeys(counted, 0)
    for key in made.upstream:
        stage, partition = key.split("/", 1)
        for name, (of, count) in counted.items():
            if of == stage:
                one = manifest.read(store, stage, partition)
                totals[name] += int(one.counts[count]) if one else 0
    return totals


def problems(page: str, expected: Mapping[str, int]) -> list[str]:
    """What is wrong with a page: a request it makes, a number that is missing or differs, or nothing in it."""
    read = _Page()
    read.feed(page)
    found = [f"the page asks for {value[:80]}" for value in read.requests]
    if "url(" in read.style or "@import" in read.style:
        found.append("the style sheet asks for something")
    if len(page) < EMPTY_BYTES or not read.counts:
        found.append("the page is empty")
    for name, count in expected.items():
        if read.counts.get(name) != count:
            found.append(f"'{name}' is {read.counts.get(name)} on the page and {count} in its stage")
    return found


class _Page(HTMLParser):
    """Collects what a page would load, its style sheet and its marked counts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.requests: list[str] = []
        self.counts: dict[str, int] = {}
        self.style, self._inside = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self._inside = tag == "style"
        self.style += attributes.get("style", "")
        if tag == "script":
            self.requests.append("a script")
        for name in LOADING:
            value = attributes.get(name, "").strip()
            # A place on the page, or a picture inside it; everything else leaves the page.
            if value and not value.startswith(("#", "data:image/")):
                self.requests.append(value)
        if "data-count" in attributes:
            self.counts[attributes["data-count"]] = int(attributes.get("data-value") or -1)

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.style += data
