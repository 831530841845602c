"""Pages: one reference a picture, resolved, the largest on offer; hostile pages end soon."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.curation.crawl.pages import candidates, decode_html, extract, resolve

AT = "https://site.example/dir/page.html"


def urls(body: str, **options: object) -> list[str]:
    return [r.url for r in extract(body, AT, **options).references]


@pytest.mark.parametrize(
    ("body", "url"),
    [
        ('<img src="a.jpg">', "https://site.example/dir/a.jpg"),
        ('<img src="/a.jpg#top">', "https://site.example/a.jpg"),
        ('<img src="//cdn.example/a.jpg?x=1&amp;y=2">', "https://cdn.example/a.jpg?x=1&y=2"),
        ('<img src=" a b.jpg\n">', "https://site.example/dir/a%20b.jpg"),
        ('<img srcset="s.jpg 320w, l.jpg 1280w, m.jpg 640w" src="s.jpg">', "https://site.example/dir/l.jpg"),
        ('<img srcset="two.jpg 2x, one.jpg" src="one.jpg">', "https://site.example/dir/two.jpg"),
        ('<img srcset="a,b.jpg 2x" src="one.jpg">', "https://site.example/dir/a,b.jpg"),
        ('<img src="data:image/gif;base64,R0" data-src="real.jpg">', "https://site.example/dir/real.jpg"),
        ('<img src="blank.gif" data-original="real.jpg">', "https://site.example/dir/real.jpg"),
        ('<img src="tiny.jpg" data-srcset="big.jpg 900w">', "https://site.example/dir/big.jpg"),
        ("<noscript><img src=real.jpg></noscript>", "https://site.example/dir/real.jpg"),
        ("<amp-img src=real.jpg></amp-img>", "https://site.example/dir/real.jpg"),
        (
            "<picture><source srcset='l.webp 800w' type=image/webp><img src=s.jpg></picture>",
            "https://site.example/dir/l.webp",
        ),
        (
            "<picture><source srcset='l.jxl 800w' type=image/jxl><img src=s.jpg></picture>",
            "https://site.example/dir/s.jpg",
        ),
        ("<base href='https://cdn.example/x/'><img src=a.jpg>", "https://cdn.example/x/a.jpg"),
        ("<base href='img/'><img src=a.jpg>", "https://site.example/dir/img/a.jpg"),
    ],
)
def test_every_way_to_show_a_picture(body: str, url: str) -> None:
    assert urls(body) == [url]


def test_order_repetition_and_alt_text() -> None:
    page = extract("<img src=b.jpg alt=' a  big\ncat '><img src=a.jpg><img src=b.jpg><img><img src=''>", AT)
    assert [r.url.rsplit("/", 1)[1] for r in page.references] == ["b.jpg", "a.jpg"]
    assert page.references[0].alt == "a big cat"
    assert page.references[0].page == AT
    assert page.repeated == 1


@pytest.mark.parametrize("content", ["noai", "NoImageAI, follow", "index,noimageindex"])
def test_a_page_that_opts_out_rules_its_images_out(content: str) -> None:
    page = extract(f"<meta name=ROBOTS content='{content}'><img src=a.jpg>", AT)
    assert [r.refused for r in page.references] == ["opted out"]


def test_noindex_speaks_of_the_page_and_not_of_its_images() -> None:
    assert [r.refused for r in extract("<meta name=robots content=noindex><img src=a.jpg>", AT).references] == [""]


def test_declared_tracking_pixels() -> None:
    page = extract("<img src=t.gif width=1 height=1px><img src=a.gif width=1 height=300><img src=b.gif>", AT)
    assert [r.refused for r in page.references] == ["tracking pixel", "", ""]


def test_a_page_of_ten_thousand_images() -> None:
    body = "".join(f"<p><img src=/i/{n}.jpg>" for n in range(10_000))
    started = time.monotonic()
    page = extract(body, AT)
    assert len(page.references) == 10_000
    assert time.monotonic() - started < 5
    cut = extract(body, AT, limit=100)
    assert (len(cut.references), cut.beyond) == (100, 9_900)


@pytest.mark.parametrize("unit", ["<div>", "<div><x></x></y>", "<b><div>", "<table><tr><td>"])
def test_a_page_nested_without_end_is_refused_at_once(unit: str) -> None:
    started = time.monotonic()
    assert extract(unit * 200_000 + "<img src=a.jpg>", AT).problem == "page nested too deeply"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("text", ["a " * 300_000, "," * 300_000, "a," * 200_000, "a.jpg 2x" * 100_000, " " * 300_000])
def test_srcset_is_read_in_linear_time(text: str) -> None:
    started = time.monotonic()
    candidates(text)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("é".encode(), "", "é"),
        ("é".encode("latin-1"), "iso-8859-1", "é"),
        (b"<meta charset=windows-1251>" + "Ж".encode("cp1251"), "", "<meta charset=windows-1251>Ж"),
        (b"\xff\xfe", "", "\ufffd\ufffd"),
        ("é".encode(), "no-such-charset", "é"),
    ],
)
def test_charsets(data: bytes, charset: str, text: str) -> None:
    assert decode_html(data, charset) == text


def test_what_cannot_be_resolved_stays_for_the_rules_to_refuse() -> None:
    assert resolve(AT, "http://[bad/") == "http://[bad/"
    assert len(resolve(AT, "data:image/png;base64," + "A" * 10_000)) == 100


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="<>=\"' /aimgsrcetpbdx:,0123&;\n\x00", max_size=300))
def test_no_text_raises(text: str) -> None:
    for reference in extract(text, AT).references:
        assert reference.page == AT
