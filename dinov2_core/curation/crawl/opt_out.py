"""What a site says about the use of its images: ``X-Robots-Tag`` headers and ``robots.txt``.

The same in ``<meta>`` tags is read with the page, in ``pages.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""The opt-outs that crawlers for training honour by convention; ``none`` in a header includes ``noindex``."""

_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def directives(headers: Iterable[str], agent: str) -> set[str]:
    """Directives of ``X-Robots-Tag`` header values that are meant for ``agent`` or for everyone.

    ``googlebot: noindex, nofollow`` speaks to one crawler: what follows a name holds for that name only.
    """
    found: set[str] = set()
    for value in headers:
        meant = True
        for part in value.lower().split(","):
            name, colon, rest = part.partition(":")
            # A directive may carry a value after a colon too; only what precedes a directive is a crawler's name.
            if colon and name.strip() not in (
                "unavailable_after",
                "max-snippet",
                "max-image-preview",
                "max-video-preview",
            ):
                meant = name.strip() in ("*", agent.lower())
                part = rest
            if meant:
                found.update(part.split())
    return found | ({"noindex"} if "none" in found else set())


class Robots:
    """``robots.txt`` of each origin, fetched once. ``get`` returns ``(HTTP status or 0, text)`` for a URL.

    As RFC 9309 has it: no file (4xx) allows all, a failing server (5xx) allows nothing. An origin that does not answer
    is allowed: the image's own fetch then fails with its own reason.
    """

    def __init__(self, agent: str, get: Callable[[str], Awaitable[tuple[int, str]]]) -> None:
        self.agent, self.get = agent, get
        self.known: dict[str, asyncio.Task[RobotFileParser]] = {}

    async def allowed(self, url: str) -> bool:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self.known:
            self.known[origin] = asyncio.create_task(self._load(origin))
        # Shielded: the first asker's cancellation must not take the answer from the others.
        return (await asyncio.shield(self.known[origin])).can_fetch(self.agent, url)

    async def _load(self, origin: str) -> RobotFileParser:
        parser = RobotFileParser()
        status, text = await self.get(f"{origin}/robots.txt")
        if status >= 500:
            text = "User-agent: *\nDisallow: /"
        parser.parse(text.splitlines() if status == 200 or status >= 500 else [])
        return parser
