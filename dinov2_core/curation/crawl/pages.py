"""From one HTML page to the image references in it.

One reference a picture: of the sizes that ``srcset``, ``<picture>`` and lazy-loading attributes offer, the largest.
Whether a reference may be fetched (rules) and fetching do not belong here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urldefrag, urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

LAZY_SOURCES = (
    "data-src",
    "data-original",
    "data-lazy-src",
    "data-lazy",
    "data-original-src",
    "data-url",
    "data-image",
)
LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set")
PAGE_OPT_OUT = frozenset({"noai", "noimageai", "noimageindex"})
"""Directives of ``<meta name=robots>`` that speak of the page's images; ``noindex`` speaks of the page only."""
TRACKING_SIDE = 2
"""An ``<img>`` declared this small, in pixels, on both sides counts visits."""
MAX_DEPTH = 20_000
"""Parsing takes time quadratic in the nesting: this deep 0.5 s, a hostile megabyte hours."""

_VOID = frozenset(
    (
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"),
        # Closed by the next of their kind.
        *("dd", "dt", "li", "option", "p", "td", "th", "tr"),
    )
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]{2,40})", re.IGNORECASE)
_DESCRIPTOR = re.compile(r"(\d+(?:\.\d+)?)([wx])")
_DECLARED = re.compile(r"\s*(\d{1,6})(?:px)?\s*$")
_CONTROL = re.compile(r"[\x00-\x20\x7f]+")


class Reference(NamedTuple):
    """One image a page points at. ``refused`` holds a reason where the page itself rules the image out."""

    url: str
    page: str
    alt: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Page:
    """``references`` in document order, each URL once. ``repeated``: how often a URL came again on the page;
    ``beyond``: how many more there were than the limit."""

    references: tuple[Reference, ...]
    repeated: int = 0
    beyond: int = 0
    problem: str = ""


def decode_html(data: bytes, charset: str = "") -> str:
    """The text of a page: by the header's charset, else the page's own, else UTF-8; bad bytes are replaced."""
    found = _CHARSET.search(data[:4096])
    for name in (charset, found[1].decode("ascii") if found else "", "utf-8"):
        if name:
            try:
                return data.decode(name, "replace")
            except (LookupError, ValueError):
                continue
    return data.decode("latin-1")


def extract(html: str, url: str, *, limit: int = 20_000, opted_out: bool = False) -> Page:
    """Find the images of a page that was fetched from ``url``.

    Args:
        limit: references kept; what is beyond is counted.
        opted_out: the page's headers carried an opt-out; its references are then marked refused.
    """
    if _too_deep(html):
        return Page((), problem="page nested too deeply")
    tree = LexborHTMLParser(html)
    base = _base(tree, url)
    refused = "opted out" if opted_out or _meta_opt_out(tree) else ""
    found: dict[str, Reference] = {}
    repeated = beyond = 0
    for node in tree.css("img, amp-img"):
        raw = _largest(node)
        if not raw:
            continue
        target = resolve(base, raw)
        if target in found:
            repeated += 1
            continue
        if len(found) >= limit:
            beyond += 1
            continue
        alt = " ".join((node.attributes.get("alt") or "").split())[:1000]
        found[target] = Reference(target, url, alt, refused or ("tracking pixel" if _is_tracker(node) else ""))
    return Page(tuple(found.values()), repeated, beyond)


def resolve(base: str, raw: str) -> str:
    """Absolute URL without fragment. What cannot be resolved stays as written: the rules refuse it with a reason."""
    raw = raw.strip()
    if raw[:5].lower() == "data:":
        return raw[:100]
    raw = _CONTROL.sub(lambda m: "%20" * m[0].count(" "), raw)
    try:
        return urldefrag(urljoin(base, raw)).url
    except ValueError:
        return raw


def _base(tree: LexborHTMLParser, url: str) -> str:
    node = tree.css_first("base[href]")
    href = node.attributes.get("href") if node else None
    return resolve(url, href) if href else url


def _meta_opt_out(tree: LexborHTMLParser) -> bool:
    for node in tree.css("meta[name][content]"):
        if (node.attributes.get("name") or "").strip().lower() == "robots":
            words = re.split(r"[\s,]+", (node.attributes.get("content") or "").lower())
            if PAGE_OPT_OUT.intersection(words):
                return True
    return False


def _largest(node: LexborNode) -> str:
    """The URL of the largest picture that an ``<img>`` offers; empty where it offers none."""
    attributes = node.attributes
    lazy = next((v for name in LAZY_SOURCES if (v := attributes.get(name))), None)
    # Before a lazy picture is loaded, `src` is a placeholder.
    plain = lazy or attributes.get("src") or ""
    sets = [attributes.get("srcset"), *(attributes.get(name) for name in LAZY_SETS)]
    if node.parent is not None and node.parent.tag == "picture":
        for source in node.parent.css("source"):
            kind = (source.attributes.get("type") or "").lower()
            if kind in ("", "image/jpeg", "image/png", "image/webp", "image/avif", "image/gif"):
                sets += [source.attributes.get("srcset"), *(source.attributes.get(name) for name in LAZY_SETS)]
    best = (0.0, 1.0, plain.strip()) if plain.strip() and not _is_placeholder(plain) else (0.0, 0.0, plain.strip())
    for text in sets:
        for width, density, candidate in candidates(text or ""):
            if (width, density) > best[:2] and not _is_placeholder(candidate):
                best = (width, density, candidate)
    return best[2]


def candidates(srcset: str) -> list[tuple[float, float, str]]:
    """``(width, density, url)`` of each candidate in a ``srcset``; 0 and 1 where it does not say."""
    # The order of steps is the HTML standard's: a URL may hold commas, so the text cannot be split at them.
    found: list[tuple[float, float, str]] = []
    at = 0
    while True:
        while at < len(srcset) and (srcset[at].isspace() or srcset[at] == ","):
            at += 1
        if at == len(srcset):
            return found
        start = at
        while at < len(srcset) and not srcset[at].isspace():
            at += 1
        url, size = srcset[start:at], None
        if not url.endswith(","):
            end = srcset.find(",", at)
            end = len(srcset) if end < 0 else end
            size = _DESCRIPTOR.search(srcset, at, end)
            at = end
        number = float(size[1]) if size else 1.0
        wide = size is not None and size[2] == "w"
        found.append((number if wide else 0.0, 1.0 if wide else number, url.rstrip(",")))


def _is_placeholder(url: str) -> bool:
    return url.lstrip()[:5].lower() in ("data:", "about")


def _is_tracker(node: LexborNode) -> bool:
    sides = [_DECLARED.match(node.attributes.get(name) or "") for name in ("width", "height")]
    return all(side is not None and int(side[1]) <= TRACKING_SIDE for side in sides)


def _too_deep(html: str) -> bool:
    if html.count("<") <= MAX_DEPTH:
        return False
    depth, opened = 0, Counter[str]()
    for match in _TAG.finditer(html):
        name = match[2].lower()
        # A closing tag that nothing opened closes nothing.
        if name in _VOID or (match[1] and not opened[name]):
            continue
        step = -1 if match[1] else 1
        opened[name] += step
        depth += step
        if depth > MAX_DEPTH:
            return True
    return False
