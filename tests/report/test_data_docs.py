"""The data docs: what failed stands first, and the words of a crawled page stay words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import data_docs
from assets.gates import check_table, made_batches
from dinov2_core.gates.blocks import show
from dinov2_core.gates.expectation import Outcome, error, warn
from dinov2_core.storage import Store
from tests.gates import toy
from tests.report.test_page import HOSTILE, Parsed, assert_asks_for_nothing


def result(text: str = "plain", *, severity: str = "error") -> dict[str, Any]:
    """A check's result that says ``text`` wherever somebody else's words, or a batch's name, can stand."""
    make = error if severity == "error" else warn
    outcomes = [
        Outcome(make("ExpectThis", column="url", value_set=[text]), False, text, (show(text), show(text)), (text,)),
        Outcome(error("ExpectThat", column=text), True, 0, ()),
    ]
    plain = [outcome.to_plain() for outcome in outcomes]
    return {"asset": "a", "check": "c", "versions": {text: "f" * 64}, "rows": 7, "at": "now", "outcomes": plain}


def assert_links_stay_here(parsed: Parsed) -> None:
    """Links lead to pages of the docs; everything else asks for nothing."""
    for tag, attributes in parsed.tags:
        if tag == "a":
            target = attributes.pop("href")
            assert target is not None
            assert target.endswith(".html")
            assert ":" not in target
            assert "/" not in target


@pytest.mark.parametrize("text", HOSTILE)
def test_what_the_web_says_stays_text(text: str) -> None:
    for build in (data_docs.page, lambda one: data_docs.index([one])):
        parsed, like = Parsed(build(result(text))), Parsed(build(result()))
        assert_links_stay_here(parsed)
        assert_links_stay_here(like)
        assert_asks_for_nothing(parsed, like)


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_text_stays_text(text: str) -> None:
    parsed, like = Parsed(data_docs.page(result(text))), Parsed(data_docs.page(result()))
    assert_links_stay_here(parsed)
    assert_links_stay_here(like)
    assert_asks_for_nothing(parsed, like)


def test_the_policy_in_the_head_forbids_every_request() -> None:
    for page in (data_docs.page(result()), data_docs.index([result()])):
        policies = [a["content"] for t, a in Parsed(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert len(policies) == 1
        assert policies[0] is not None
        assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert "url(" not in page
        assert "@import" not in page


def test_what_failed_stands_first() -> None:
    page = data_docs.page(result())
    assert page.index("ExpectThis") < page.index("ExpectThat")
    sound = {**result(), "asset": "sound", "outcomes": []}
    listed = data_docs.index([sound, {**result(severity="warn"), "asset": "odd"}, {**result(), "asset": "broken"}])
    assert listed.index("broken: c") < listed.index("odd: c") < listed.index("sound: c")
    assert [data_docs.state(r["outcomes"]) for r in (result(), result(severity="warn"), sound)] == [
        "blocks",
        "warns",
        "passed",
    ]


def test_a_crawled_url_reaches_the_page_as_text(store: Store) -> None:
    """From a row of the crawl through the check to the page: nothing on the way takes it for markup."""
    toy.lake(store)
    url = '"><script>alert(1)</script><img src=http://evil.example onerror=alert(2)>'
    toy.alter_rows(
        store, "raw_crawl", "images", lambda rows: [{**rows[0], "url": url, "status": url, "width": 0}, *rows[1:]]
    )
    found = check_table(store, "raw_crawl", "images", made_batches(store, "raw_crawl", toy.BATCHES))
    assert not found.passed
    page = Path(found.metadata["data_docs"].path).read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "evil.example" in Parsed(page).text


def test_the_latest_result_of_each_check_is_kept(store: Store) -> None:
    outcome = Outcome(error("ExpectThis"), True, 0, ())
    for rows in (1, 2):
        data_docs.publish(store, "a", "c", {"all": "f" * 64}, rows, [outcome])
    data_docs.publish(store, "b", "c", {"all": "f" * 64}, 3, [outcome])
    assert store.find(data_docs.FOLDER) == [
        f"data_docs/{name}" for name in ("a.c.html", "a.c.json", "b.c.html", "b.c.json", "index.html")
    ]
    listed = Parsed(store.read_bytes("data_docs/index.html").decode())
    assert sum(tag == "tr" for tag, _ in listed.tags) == 3
