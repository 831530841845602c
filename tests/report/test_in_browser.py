"""The page in a real browser: it asks for nothing, runs nothing, and fits a phone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assets import data_docs
from dinov2_core.gates.blocks import show
from pipelines.demo import browser
from pipelines.demo.screenshots import MOST_BYTES, compact
from tests.report.test_data_docs import result
from tests.report.test_page import HOSTILE, html, report

needs_browser = pytest.mark.skipif(browser.executable() is None, reason="no Chromium on the path")


@contextlib.contextmanager
def quiet_page(*allowed: str) -> Iterator[Any]:
    """A page that must run nothing and ask for nothing but what starts with ``allowed``, or the test fails."""
    asked: list[str] = []
    ran: list[str] = []
    with browser.page(1200, 800) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
        yield page
    assert ran == []
    assert [url for url in asked if not url.startswith(allowed)] == []


@pytest.mark.browser
@needs_browser
def test_hostile_pages_request_nothing_and_run_nothing(tmp_path: Path) -> None:
    with quiet_page("data:", tmp_path.as_uri()) as page:
        for number, text in enumerate(HOSTILE):
            path = tmp_path / f"{number}.html"
            path.write_text(html(report(text)))
            page.goto(path.as_uri())
            assert page.title() == " ".join(text.split())


@pytest.mark.browser
@needs_browser
def test_hostile_data_docs_request_nothing_and_run_nothing(tmp_path: Path) -> None:
    """Every word of a crawled page that an example, a batch's name or a setting can carry, as a browser reads it."""
    with quiet_page(tmp_path.as_uri()) as page:
        for text in HOSTILE:
            (tmp_path / "index.html").write_text(data_docs.index([result(text)]))
            (tmp_path / "a.c.html").write_text(data_docs.page(result(text)))
            page.goto((tmp_path / "index.html").as_uri())
            page.click("text=a: c")
            assert page.url == (tmp_path / "a.c.html").as_uri(), "the index leads to the check's page"
            assert [e.text_content() for e in page.query_selector_all("code")][:2] == [show(text)] * 2


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_data_docs_fit_a_phone(tmp_path: Path, scheme: Any) -> None:
    (tmp_path / "page.html").write_text(data_docs.page(result("a long name " * 8)))
    with browser.page(390, 844) as page:
        page.emulate_media(color_scheme=scheme)
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (brightness(ink) < brightness(paper)) == (scheme == "light")


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(tmp_path: Path, scheme: Any) -> None:
    (tmp_path / "page.html").write_text(html(report("a long name " * 8)))
    with browser.page(390, 844) as page:
        page.emulate_media(color_scheme=scheme)
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (brightness(ink) < brightness(paper)) == (scheme == "light")


def brightness(colour: str) -> float:
    return sum(float(v) for v in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_pictures_for_the_documentation_stay_below_a_megabyte() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8))
    out = io.BytesIO()
    noise.save(out, "PNG")
    assert out.tell() > MOST_BYTES
    made = compact(out.getvalue())
    assert len(made) < MOST_BYTES
    assert Image.open(io.BytesIO(made)).size == (900, 700)
