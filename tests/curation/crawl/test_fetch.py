"""Fetching from a hostile server on loopback: every trick ends in one outcome with one reason, in bounded time."""

from __future__ import annotations

import asyncio
import gzip
import io
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from dinov2_core.curation.crawl.fetch import Fetcher, Limits, Outcome, Politeness
from dinov2_core.curation.crawl.rules import UrlRules


def png(seed: int = 0, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = png()
BOMB = zlib.compressobj(9, wbits=31)
BOMB_BYTES = BOMB.compress(bytes(200_000_000)) + BOMB.flush()
LIMITS = Limits(
    max_bytes=100_000, max_page_bytes=10_000, max_redirects=3, total_timeout=1.0, retries=1, retry_wait=0.01
)
EASY = Politeness(concurrency=64, per_host=64, per_host_rate=100_000)


class Site:
    """The server's side: counts requests by path and remembers how many ran at once."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.starts: list[float] = []
        self.now = self.most = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path.strip("/").split("/")[0].replace("-", "_").replace(".", "_")
        self.asked[request.path] += 1
        self.starts.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = getattr(self, f"on_{name}", None)
            return await answer(request) if answer else web.Response(status=404)
        finally:
            self.now -= 1

    async def on_good(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=GOOD, content_type="text/html")

    async def on_slow(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return web.Response(body=GOOD)

    async def on_hang(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(2.5)
        return web.Response(body=GOOD)

    async def on_drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    async def on_endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(GOOD[:8] + bytes(50_000))

    async def on_short(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "50000"})
        await response.prepare(request)
        await response.write(GOOD)
        assert request.transport is not None
        request.transport.close()
        return response

    async def on_claims(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "99999999999"})
        await response.prepare(request)
        return response

    async def on_zipped(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(GOOD), headers={"Content-Encoding": "gzip"})

    async def on_bomb(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=BOMB_BYTES, headers={"Content-Encoding": "gzip"})

    async def on_half_zipped(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(GOOD)[:-20], headers={"Content-Encoding": "gzip"})

    async def on_not_zipped(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=GOOD, headers={"Content-Encoding": "gzip"})

    async def on_brotli(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=GOOD, headers={"Content-Encoding": "br"})

    async def on_page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<!doctype html><img src=a.jpg>", content_type="text/html", charset="utf-8")

    async def on_big_page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>" + "x" * 20_000, content_type="text/html")

    async def on_svg(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<svg/>", content_type="image/png")

    async def on_empty(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def on_dot(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=png(side=1))

    async def on_error(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    async def on_busy(self, request: web.Request) -> web.StreamResponse:
        if self.asked[request.path] == 1:
            return web.Response(status=429, headers={"Retry-After": "0"})
        return web.Response(body=GOOD)

    async def on_robots_header(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=GOOD, headers={"X-Robots-Tag": "noarchive, noimageai"})

    async def on_loop(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/loop")

    async def on_to(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": request.query["url"]})

    async def on_no_location(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302)

    async def on_headers(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=GOOD, headers={"X-Long": "x" * 100_000})

    async def on_robots_txt(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="User-agent: *\nDisallow: /closed/")


async def visit(paths: list[str], site: Site, *, page: bool = False, **options: object) -> list[Outcome]:
    runner = web.AppRunner(_application(site), access_log=None)
    await runner.setup()
    place = web.TCPSite(runner, "127.0.0.1", 0)
    await place.start()
    port = runner.addresses[0][1]
    settings: dict[str, object] = {
        "limits": LIMITS,
        "politeness": EASY,
        "robots_txt": False,
        "hosts": {"*": f"127.0.0.1:{port}"},
        **options,
    }
    try:
        async with Fetcher(**settings) as fetcher:
            urls = [p.replace("PORT", str(port)) if p.startswith("http") else f"http://site.example/{p}" for p in paths]
            return list(await asyncio.gather(*(fetcher.fetch(url, page=page) for url in urls)))
    finally:
        await runner.cleanup()


def _application(site: Site) -> web.Application:
    app = web.Application()
    app.router.add_get("/{path:.*}", site.handle)
    app.on_shutdown.append(lambda _: asyncio.sleep(0))
    return app


def fetch(path: str, *, page: bool = False, site: Site | None = None, **options: object) -> Outcome:
    return asyncio.run(visit([path], site or Site(), page=page, **options))[0]


def told(path: str, **options: object) -> tuple[str, str]:
    outcome = fetch(path, **options)
    return outcome.kind, outcome.reason


def test_an_image_is_known_by_its_bytes_and_not_by_its_header() -> None:
    outcome = fetch("good")
    assert (outcome.kind, outcome.data) == ("image", GOOD)
    assert outcome.probe is not None
    assert (outcome.probe.format, outcome.probe.width, outcome.probe.height) == ("PNG", 16, 16)
    assert fetch("zipped").data == GOOD


@pytest.mark.parametrize(
    ("path", "told_as"),
    [
        ("gone", ("failed", "http 404")),
        ("error", ("failed", "http 500")),
        ("no-location", ("failed", "http 302")),
        ("hang", ("failed", "time-out")),
        ("drip", ("failed", "time-out")),
        ("short", ("failed", "incomplete")),
        ("half-zipped", ("failed", "incomplete")),
        ("headers", ("failed", "protocol error")),
        ("endless", ("refused", "too large")),
        ("claims", ("refused", "too large")),
        ("bomb", ("refused", "too large")),
        ("not-zipped", ("refused", "content encoding")),
        ("brotli", ("refused", "content encoding")),
        ("page", ("refused", "html")),
        ("svg", ("refused", "svg")),
        ("empty", ("refused", "empty")),
        ("dot", ("refused", "tracking pixel")),
        ("robots-header", ("refused", "opted out")),
        ("loop", ("refused", "too many redirects")),
        ("to?url=http://169.254.169.254/latest/meta-data", ("refused", "redirect: private address")),
        ("to?url=http://2130706433/", ("refused", "redirect: private address")),
        ("to?url=http://[::1]/", ("refused", "redirect: private address")),
        ("to?url=file:///etc/passwd", ("refused", "redirect: scheme")),
        ("to?url=http://deep.bad.example/good", ("refused", "redirect: blocked domain")),
        ("to?url=http://[bad", ("refused", "redirect: bad url")),
    ],
)
def test_each_trick_ends_with_its_reason(path: str, told_as: tuple[str, str]) -> None:
    started = time.monotonic()
    assert told(path, rules=UrlRules(blocked_domains=frozenset({"bad.example"}))) == told_as
    assert time.monotonic() - started < 5


def test_redirects_are_followed_relative_and_absolute() -> None:
    assert fetch("to?url=/good").kind == "image"
    assert fetch("to?url=http://other.example/to?url=../good").kind == "image"


def test_a_busy_server_is_asked_again_and_a_missing_page_is_not() -> None:
    site = Site()
    outcomes = asyncio.run(visit(["busy", "gone", "error"], site))
    assert [o.kind for o in outcomes] == ["image", "failed", "failed"]
    assert site.asked == {"/busy": 2, "/gone": 1, "/error": 2}


def test_private_addresses_by_name_and_by_number_unless_allowed() -> None:
    for url in ("http://127.0.0.1:PORT/good", "http://localhost:PORT/good", "http://0x7f.1:PORT/good"):
        site = Site()
        assert told(url, hosts={}, site=site) == ("refused", "private address")
        assert not site.asked
    assert fetch("http://127.0.0.1:PORT/good", hosts={}, allow_private=True).kind == "image"
    assert fetch("http://localhost:PORT/good", hosts={}, allow_private=True).kind == "image"


def test_names_and_ports_that_do_not_answer() -> None:
    assert told("http://no-such-name.invalid/", hosts={}) == ("failed", "unknown host")
    quick = replace(LIMITS, retries=0)
    assert told("http://127.0.0.1:1/a", hosts={}, allow_private=True, limits=quick) == ("failed", "no connection")


def test_pages_are_welcome_only_where_asked_for() -> None:
    outcome = fetch("page", page=True)
    assert (outcome.kind, outcome.charset, outcome.opted_out) == ("page", "utf-8", False)
    assert told("big-page", page=True) == ("refused", "page too large")
    assert fetch("good", page=True).kind == "image"


def test_robots_txt_closes_what_it_names_and_costs_one_request() -> None:
    site = Site()
    outcomes = asyncio.run(visit(["closed/a.png", "closed/b.png", "good"], site, robots_txt=True))
    assert [(o.kind, o.reason) for o in outcomes] == [("refused", "robots.txt")] * 2 + [("image", "")]
    assert site.asked == {"/robots.txt": 1, "/good": 1}


def test_a_host_is_never_asked_more_at_once_than_polite() -> None:
    site = Site()
    asyncio.run(visit(["slow"] * 12, site, politeness=Politeness(64, 3, 100_000)))
    assert site.most == 3


def test_requests_to_a_host_are_spaced() -> None:
    site = Site()
    asyncio.run(visit(["good"] * 6, site, politeness=Politeness(64, 6, 20.0)))
    assert np.diff(sorted(site.starts)).min() > 0.03


def test_the_whole_crawl_is_bounded_too() -> None:
    site = Site()
    urls = [f"http://{n}.example/slow" for n in range(12)]
    asyncio.run(visit(urls, site, politeness=Politeness(5, 4, 100_000)))
    assert site.most == 5
