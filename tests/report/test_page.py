"""The page: one file that asks for nothing, says the numbers it was given, and takes no order from the web."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from dinov2_core.evaluate.planted import Part, Score
from dinov2_core.report.funnel import Step
from dinov2_core.report.gallery import Group, Neighbours, Pair, Picture
from dinov2_core.report.page import Chart, Report, Threshold, html, markdown
from dinov2_core.report.thumbnails import Thumbnail

PIXEL = Thumbnail("data:image/png;base64,AAAA", 32, 32)
HOSTILE = (
    '"><script>alert(1)</script>',
    "' onerror='alert(1)",
    "javascript:alert(1)",
    "http://evil.example/x.png",
    "{{ 7 * 7 }}",
    "</style><img src=http://evil.example>",
    "<!--",
    "a|b\n# heading [link](http://evil.example)",
)


def report(text: str = "plain") -> Report:
    """A report that says ``text`` wherever somebody else's words can stand."""
    picture = Picture(PIXEL, text, text, text)
    metric = {"dataset": text, "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "count": 100}
    return Report(
        title=text,
        funnel=[
            Step("references", "raw_crawl", "found", 4321),
            Step("stored", "raw_crawl", "stored", 1234, ((text, 3087),)),
            Step("kept", "filtered_set", "kept", 1000, (("duplicate", 7), (text, 227))),
            Step("deduplicated", "deduplicated_set", "unique", 900, (("copy of another", 60), ("leak of x", 40))),
            Step("drawn", "curated_lvd", "drawn", 321),
        ],
        training_images=345,
        composition=[{"task": text, "dataset": text, "queries": 9, "mode": "sample", "retrieved": 36, "final": 30}],
        metrics=[
            {**metric, "protocol": "knn", "model": "trained"},
            {**metric, "protocol": "knn", "model": "untrained", "value": 0.25},
        ],
        accuracy=[Chart(text, Markup("<svg></svg>"))],
        curves=[Chart(text, Markup("<svg></svg>"))],
        planted=[Score("raw_crawl", text, 4, 3, 0.75, text, (Part(text, 2, 1), Part(text, 2, 2)))],
        thresholds=[Threshold(text, text, text, text)],
        kept=[picture],
        undrawn=[picture],
        faces=[picture],
        faces_count=1,
        dropped=[Group(text, 1, (picture, Picture(Thumbnail("", 9, 9), text, text, text, veiled=True)))],
        duplicates=[Pair(picture, picture, None)],
        copies=[Pair(picture, picture, 0.91, 0.99)],
        leaks=[Pair(picture, picture, 0.7)],
        neighbours=[Neighbours(picture, (picture,))],
        versions={"raw_crawl/" + text: "f" * 64},
    )


class Parsed(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_asks_for_nothing(parsed: Parsed, like: Parsed) -> None:
    assert [t for t, _ in parsed.tags] == [t for t, _ in like.tags], "the web's words made or ended a tag"
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base", "video", "audio")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "href", "xlink:href", "action", "poster", "data"):
                assert value is not None
                assert value.startswith(("data:image/", "#")), (tag, name, value)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_the_web_says_stays_text(text: str) -> None:
    parsed = Parsed(html(report(text)))
    assert_asks_for_nothing(parsed, Parsed(html(report())))
    titles = {a.get("title") for _, a in parsed.tags if a.get("title")}
    assert titles == {f"{text} — {text}"}, "and it is shown as it was"


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_text_stays_text(text: str) -> None:
    assert_asks_for_nothing(Parsed(html(report(text))), Parsed(html(report())))


def test_the_policy_in_the_head_forbids_every_request() -> None:
    parsed = Parsed(html(report()))
    policies = [
        a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'; img-src data:;")
    style = re.search(r"<style>(.*)</style>", html(report()), re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_numbers_of_the_funnel_can_be_read_back() -> None:
    parsed = Parsed(html(report()))
    read = {a["data-count"]: int(a["data-value"] or "") for _, a in parsed.tags if "data-count" in a}
    assert read == {"references": 4321, "stored": 1234, "kept": 1000, "deduplicated": 900, "drawn": 321}


def test_the_headline_counts_copies_of_both_kinds_and_names_the_control() -> None:
    text = Parsed(html(report())).text
    tiles = re.sub(r"\s+", " ", text)
    assert "345training images, 321 of them drawn" in tiles
    assert "67near-copies removed" in tiles
    assert "40images removed because a benchmark" in tiles
    assert "50.0 %k-NN on plain; the same network untrained: 25.0 %" in tiles


def test_a_report_without_optional_parts_is_a_whole_page() -> None:
    steps = [Step(n, "s", "l", 0) for n in ("references", "stored", "kept", "deduplicated", "drawn")]
    page = html(Report("empty", steps, 0))
    assert page.lstrip().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "No copies were found" in page


def test_light_dark_and_small_screens_are_thought_of() -> None:
    page = html(report())
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "@media (max-width: 640px)" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_the_summary_is_one_table_after_the_other_whatever_the_words(text: str) -> None:
    lines = [line for line in markdown(report(text)).splitlines() if line and not line.startswith("###")]
    assert all(line.startswith("|") and line.endswith("|") for line in lines)
    like = [line for line in markdown(report()).splitlines() if line and not line.startswith("###")]
    assert [line.count("|") for line in lines] == [line.count("|") for line in like]
    assert "<script" not in markdown(report(text))
    assert "<img" not in markdown(report(text))


def test_equal_reports_are_equal_bytes() -> None:
    assert html(report("x")) == html(report("x"))
    assert markdown(report("x")) == markdown(report("x"))
