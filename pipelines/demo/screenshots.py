"""``python -m pipelines.demo.screenshots``: pictures of the report and of the asset graph, for ``docs/``.

Run it after the demo, with the same ``DATA_ROOT`` and ``DAGSTER_HOME``. Needs a Chromium and the extra ``dev``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dinov2_core import manifest
from dinov2_core.errors import UserError
from dinov2_core.storage import Store
from pipelines.demo import browser
from pipelines.resources.lake import Lake

MOST_BYTES = 1_000_000


def report(store: Store, height: int = 2400) -> bytes:
    """The top of the newest report, as PNG."""
    made = manifest.read(store, "curation_report")
    if made is None or not store.local:
        raise UserError("there is no report in a local folder", where=store.root, todo="run `make demo` first")
    path = next(f.path for f in made.files if f.path.endswith(".html"))
    with browser.page(1200, height) as page:
        page.goto(Path(store.full(path)).resolve().as_uri())
        return bytes(page.screenshot())


def asset_graph(home: str) -> bytes:
    """The whole asset graph with every group open, as PNG; ``home`` is the Dagster home whose runs it shows."""
    with (
        browser.dagster("dagster-webserver", env={"DAGSTER_HOME": home}) as url,
        browser.page(1900, 1400) as page,
    ):
        # On a new instance the interface invites to its newsletter once.
        page.add_locator_handler(page.get_by_role("button", name="Skip", exact=True), lambda button: button.click())
        page.goto(f"{url}/asset-groups")
        page.get_by_text("Materialize all").first.wait_for()
        page.get_by_title("crawl", exact=True).first.wait_for()
        page.keyboard.press("Alt+e")
        page.get_by_text("curation_report").first.wait_for()
        # Opened from its address, the graph is fitted to the window.
        page.goto(page.url)
        page.get_by_text("curation_report").first.wait_for()
        page.wait_for_timeout(3000)
        return bytes(page.screenshot())


def compact(png: bytes) -> bytes:
    """The same picture below a megabyte, with fewer colours if need be."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (0, 256, 64):
        out = io.BytesIO()
        (image.quantize(colours) if colours else image).save(out, "PNG", optimize=True)
        if out.tell() < MOST_BYTES:
            break
    return out.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Take both pictures."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo.screenshots", description=__doc__)
    parser.add_argument("--to", default=str(browser.ROOT / "docs"), help="folder of the pictures")
    folder = Path(parser.parse_args(arguments).to)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pictures = {
            "report.png": report(Lake.from_environment().store()),
            "asset_graph.png": asset_graph(os.environ.get("DAGSTER_HOME") or str(browser.ROOT / ".dagster")),
        }
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, png in pictures.items():
        (folder / name).write_bytes(compact(png))
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
