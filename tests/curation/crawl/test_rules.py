"""URL rules, blocklists and opt-outs, as specifications."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov2_core.curation.crawl.opt_out import Robots, directives
from dinov2_core.curation.crawl.rules import UrlRules, read_domains

RULES = UrlRules(blocked_domains=frozenset({"bad.example", "xn--bcher-kva.example"}))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://good.example/a.jpg", ""),
        ("HTTP://GOOD.example/a", ""),
        ("https://notbad.example/a.jpg", ""),
        ("https://bad.example.org/a.jpg", ""),
        ("https://bad.example/a.jpg", "blocked domain"),
        ("https://deep.ads.bad.example:8080/a.jpg", "blocked domain"),
        ("https://BAD.Example./a.jpg", "blocked domain"),
        ("https://bücher.example/a.jpg", "blocked domain"),
        ("ftp://good.example/a.jpg", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("data:image/gif;base64,R0", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("/relative.jpg", "bad url"),
        ("https:///a.jpg", "bad url"),
        ("http://[bad/a.jpg", "bad url"),
        ("http://good.example:99999/a.jpg", "bad url"),
        ("https://user:secret@good.example/a.jpg", "credentials in url"),
        ("https://good.example/logo.SVG?v=1", "unwanted extension"),
        ("https://good.example/" + "a" * 2000, "url too long"),
    ],
)
def test_urls(url: str, reason: str) -> None:
    assert RULES.refuse(url) == reason


def test_a_page_may_end_in_html() -> None:
    assert RULES.refuse("https://good.example/index.html") == "unwanted extension"
    assert RULES.refuse("https://good.example/index.html", page=True) == ""


@given(st.text(max_size=80))
def test_no_url_raises(text: str) -> None:
    assert isinstance(RULES.refuse(text), str)
    assert isinstance(RULES.refuse("http://" + text), str)


def test_blocklists_plain_and_in_the_form_of_hosts_files() -> None:
    lines = [
        "# a comment",
        "plain.example  # another",
        "0.0.0.0 a.example b.example",
        "127.0.0.1\tlocalhost",
        "::1 ip6-localhost",
        "*.wild.example",
        "||adblock.example^",
        "UPPER.Example.",
        "10.1.2.3",
        "",
    ]
    names = {"plain", "a", "b", "wild", "adblock", "upper"}
    assert read_domains(lines) == {f"{name}.example" for name in names}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], set()),
        (["noai, noimageai"], {"noai", "noimageai"}),
        (["NOINDEX"], {"noindex"}),
        (["none"], {"none", "noindex"}),
        (["googlebot: noindex, nofollow"], set()),
        (["my-bot: noai"], {"noai"}),
        (["*: noai"], {"noai"}),
        (["otherbot: noai, my-bot: noindex"], {"noindex"}),
        (["otherbot: noai", "noimageai"], {"noimageai"}),
    ],
)
def test_robots_headers_speak_to_everyone_or_to_one_crawler(headers: list[str], found: set[str]) -> None:
    assert directives(headers, "my-bot") == found


def test_unavailable_after_is_a_directive_and_no_crawler() -> None:
    assert "noai" in directives(["unavailable_after: 25 Jun 2010, noai"], "my-bot")


@pytest.mark.parametrize(
    ("status", "text", "allowed"),
    [
        (200, "User-agent: *\nDisallow: /private/", {"/a.jpg": True, "/private/a.jpg": False}),
        (200, "User-agent: my-bot\nDisallow: /\n\nUser-agent: *\nDisallow:", {"/a.jpg": False}),
        (200, "User-agent: other\nDisallow: /", {"/a.jpg": True}),
        (404, "", {"/a.jpg": True}),
        (403, "", {"/a.jpg": True}),
        (503, "", {"/a.jpg": False}),
        (0, "", {"/a.jpg": True}),
    ],
)
def test_robots_txt_as_rfc_9309_has_it(status: int, text: str, allowed: dict[str, bool]) -> None:
    asked = []

    async def get(url: str) -> tuple[int, str]:
        asked.append(url)
        return status, text

    async def main() -> dict[str, bool]:
        robots = Robots("my-bot", get)
        paths = [*allowed, *allowed]
        answers = await asyncio.gather(*(robots.allowed(f"https://site.example{path}") for path in paths))
        return dict(zip(paths, answers, strict=True))

    assert asyncio.run(main()) == allowed
    assert asked == ["https://site.example/robots.txt"]
