"""Fetching URLs from a hostile web: bounded in bytes, pixels, time, redirects and requests a host.

A :class:`Fetcher` turns one URL into one :class:`Outcome` and never raises for what a server does. What is an image
is decided by its bytes, never by its name or headers. Which URLs to fetch, and storing, do not belong here.
"""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal
from urllib.parse import urljoin, urlsplit

import aiohttp

from dinov2_core.curation.crawl.addresses import PrivateAddressError, PublicResolver, is_public, literal
from dinov2_core.curation.crawl.opt_out import DIRECTIVES, Robots, directives
from dinov2_core.curation.crawl.pages import PAGE_OPT_OUT
from dinov2_core.curation.crawl.rules import UrlRules
from dinov2_core.curation.crawl.sitemaps import is_sitemap
from dinov2_core.images.decode import MAX_PIXELS, Probe, probe

_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_WAIT = 10.0


@dataclass(frozen=True)
class Limits:
    """Bounds of one fetch. Bytes count after decompression; ``total_timeout`` (seconds) covers one attempt."""

    max_bytes: int = 20 << 20
    max_page_bytes: int = 4 << 20
    max_pixels: int = MAX_PIXELS
    max_redirects: int = 5
    connect_timeout: float = 10.0
    total_timeout: float = 30.0
    retries: int = 2
    retry_wait: float = 0.5
    """Seconds before the first retry, doubled each time, with jitter."""
    tracking_side: int = 2
    """An image no larger than this on both sides counts visits."""


@dataclass(frozen=True)
class Politeness:
    """Requests at once (in all, and a host) and requests a second a host."""

    concurrency: int = 64
    per_host: int = 4
    per_host_rate: float = 20.0


@dataclass(frozen=True)
class Outcome:
    """What became of one URL. ``data`` of an image, a page or a site map; ``reason`` otherwise."""

    kind: Literal["image", "page", "sitemap", "refused", "failed"]
    reason: str = ""
    data: bytes = b""
    probe: Probe | None = None
    charset: str = ""
    opted_out: bool = False
    url: str = ""
    """Where the redirects ended."""


def classify(data: bytes, limits: Limits, *, page: bool = False, html: bool = False) -> Outcome:
    """Judge bytes by themselves. ``page``: HTML is welcome; ``html``: the server called them so."""
    found = probe(data, max_pixels=limits.max_pixels)
    if isinstance(found, Probe):
        if max(found.width, found.height) <= limits.tracking_side:
            return Outcome("refused", "tracking pixel")
        return Outcome("image", data=data, probe=found)
    if page and (found.reason == "html" or (html and found.reason == "not an image")):
        if len(data) > limits.max_page_bytes:
            return Outcome("refused", "page too large")
        return Outcome("page", data=data)
    return Outcome("refused", found.reason)


class _TransientError(Exception):
    """Worth another attempt. ``wait``: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class _RefusedError(Exception):
    pass


@dataclass
class _Host:
    """The turn-taking of one host."""

    slots: asyncio.Semaphore
    next_start: float = 0.0


@dataclass
class Fetcher:
    """Fetches URLs concurrently; use as an async context manager, in one event loop.

    ``hosts`` sends names to given addresses (see :class:`PublicResolver`).
    """

    rules: UrlRules = field(default_factory=UrlRules)
    limits: Limits = field(default_factory=Limits)
    politeness: Politeness = field(default_factory=Politeness)
    allow_private: bool = False
    hosts: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = "dinov2-pipeline"
    robots_txt: bool = True
    opt_out: tuple[str, ...] = DIRECTIVES

    async def __aenter__(self) -> Fetcher:
        self._slots = asyncio.Semaphore(self.politeness.concurrency)
        self._by_host: dict[str, _Host] = {}
        self._robots = Robots(self.user_agent, self._get_robots) if self.robots_txt else None
        resolver = PublicResolver(allow_private=self.allow_private, hosts=self.hosts)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=self.limits.total_timeout, sock_connect=self.limits.connect_timeout),
            # aiohttp would inflate a bomb before we see its size.
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(self, url: str, *, page: bool = False) -> Outcome:
        """Fetch an image, or where ``page``, an image, an HTML page or a site map.

        Each redirect is checked like a URL of its own, so none leads to a blocked domain or a private address.
        """
        for hop in range(self.limits.max_redirects + 1):
            prefix = "redirect: " if hop else ""
            reason = self.rules.refuse(url, page=page) or self._refuse_address(url)
            if reason:
                return Outcome("refused", prefix + reason)
            if self._robots is not None and not await self._robots.allowed(url):
                return Outcome("refused", prefix + "robots.txt")
            result = await self._try(url, page)
            if isinstance(result, Outcome):
                if result.reason == "private address":
                    return Outcome("refused", prefix + result.reason)
                return result
            try:
                url = urljoin(url, result)
            except ValueError:
                return Outcome("refused", "redirect: bad url")
        return Outcome("refused", "too many redirects")

    def _refuse_address(self, url: str) -> str:
        # A literal address never reaches the resolver, so it is checked here.
        address = "" if self.allow_private else literal(urlsplit(url).hostname or "")
        return "private address" if address and not is_public(address) else ""

    async def _try(self, url: str, page: bool) -> Outcome | str:
        """An outcome, or the address of a redirect; transient failures are tried again."""
        for attempt in range(self.limits.retries + 1):
            try:
                async with self._turn(url):
                    return await self._attempt(url, page)
            except _TransientError as error:
                if attempt == self.limits.retries:
                    return Outcome("failed", error.reason)
                backoff = self.limits.retry_wait * 2**attempt * (0.5 + random.random())  # noqa: S311 - jitter
                await asyncio.sleep(min(max(backoff, error.wait), _LONGEST_WAIT))
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _turn(self, url: str) -> AsyncIterator[None]:
        """Wait until this host and the whole crawl may make another request."""
        name = urlsplit(url).netloc
        host = self._by_host.setdefault(name, _Host(asyncio.Semaphore(self.politeness.per_host)))
        async with host.slots:
            now = time.monotonic()
            start = max(now, host.next_start)
            host.next_start = start + 1 / self.politeness.per_host_rate
            if start > now:
                await asyncio.sleep(start - now)
            async with self._slots:
                yield

    async def _attempt(self, url: str, page: bool) -> Outcome | str:
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return str(response.headers["Location"])
                if response.status == 429 or response.status >= 500:
                    raise _TransientError(f"http {response.status}", _retry_after(response))
                if response.status != 200:
                    return Outcome("failed", f"http {response.status}")
                said = directives(response.headers.getall("X-Robots-Tag", []), self.user_agent)
                if said.intersection(self.opt_out) and not page:
                    return Outcome("refused", "opted out")
                limit = max(self.limits.max_bytes, self.limits.max_page_bytes if page else 0)
                data = await _body(response, limit)
                if page and is_sitemap(data):
                    return Outcome("sitemap", data=data, url=url)
                outcome = classify(data, self.limits, page=page, html="html" in response.content_type)
                if outcome.kind == "image" and said.intersection(self.opt_out):
                    return Outcome("refused", "opted out")
                if outcome.kind != "page":
                    return outcome
                opted_out = bool(said.intersection(PAGE_OPT_OUT).intersection(self.opt_out))
                return Outcome("page", data=data, charset=response.charset or "", opted_out=opted_out, url=url)
        except _RefusedError as error:
            return Outcome("refused", str(error))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            return _explain(error)

    async def _get_robots(self, url: str) -> tuple[int, str]:
        try:
            async with self._turn(url), self._session.get(url, max_redirects=0, allow_redirects=False) as response:
                data = await _body(response, 512 << 10) if response.status == 200 else b""
                return response.status, data.decode("utf-8", "replace")
        except (_RefusedError, TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return 0, ""


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, decompressed, of at most ``limit`` bytes; an endless or inflating one is cut off there."""
    if (response.content_length or 0) > limit:
        raise _RefusedError("too large")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise _RefusedError("content encoding")
    unpack = zlib.decompressobj(wbits=47) if encoding not in ("identity", "") else None
    parts: list[bytes] = []
    size = received = 0
    async for block in response.content.iter_any():
        received += len(block)
        try:
            piece = unpack.decompress(block, limit - size + 1) if unpack else block
        except zlib.error:
            raise _RefusedError("content encoding") from None
        size += len(piece)
        if max(size, received) > limit:
            raise _RefusedError("too large")
        parts.append(piece)
    if unpack and not unpack.eof:
        raise _TransientError("incomplete")
    return b"".join(parts)


def _retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _explain(error: Exception) -> Outcome:
    """The outcome that an exception stands for; raises :class:`_TransientError` where trying again may help."""
    if isinstance(error, TimeoutError):
        raise _TransientError("time-out") from error
    if isinstance(error, aiohttp.InvalidURL):
        return Outcome("refused", "bad url")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, PrivateAddressError):
            return Outcome("refused", "private address")
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return Outcome("failed", "unknown host")
        raise _TransientError("no connection") from error
    if isinstance(error, aiohttp.ClientPayloadError):
        raise _TransientError("incomplete") from error
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        raise _TransientError("connection lost") from error
    return Outcome("failed", "protocol error")
