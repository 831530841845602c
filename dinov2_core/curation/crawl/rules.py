"""Which URLs may be fetched at all: scheme, length, extension, blocked domains. No network, no DNS.

Addresses (private networks) are checked when a connection is made, in ``addresses.py``: a name says nothing yet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BLOCKED_EXTENSIONS = (".svg", ".svgz", ".ico", ".html", ".htm", ".js", ".css", ".pdf", ".mp4", ".webm", ".mp3")


@dataclass(frozen=True)
class UrlRules:
    """``blocked_domains`` are lower-case ASCII names; a name blocks its subdomains too."""

    schemes: tuple[str, ...] = ("http", "https")
    max_length: int = 2000
    blocked_extensions: tuple[str, ...] = BLOCKED_EXTENSIONS
    blocked_domains: frozenset[str] = field(default_factory=frozenset)

    def refuse(self, url: str, *, page: bool = False) -> str:
        """Why ``url`` must not be fetched, or an empty string.

        Reasons: url too long | bad url | scheme | credentials in url | blocked domain | unwanted extension. The last
        is not asked of a ``page``.
        """
        if len(url) > self.max_length:
            return "url too long"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return "bad url"
        if not parts.scheme:
            return "bad url"
        if parts.scheme.lower() not in self.schemes:
            return "scheme"
        name = normal_domain(host or "")
        if not name:
            return "bad url"
        if parts.username is not None or parts.password is not None:
            return "credentials in url"
        if self.is_blocked(name):
            return "blocked domain"
        if not page and parts.path.lower().endswith(self.blocked_extensions):
            return "unwanted extension"
        return ""

    def is_blocked(self, name: str) -> bool:
        labels = name.split(".")
        return any(".".join(labels[i:]) in self.blocked_domains for i in range(len(labels)))


def normal_domain(host: str) -> str:
    """A host name in lower-case ASCII without trailing dots; empty where it is not one."""
    host = host.strip().rstrip(".").lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
    return host


def read_domains(lines: Iterable[str]) -> frozenset[str]:
    """Domains of a blocklist: one a line, or a hosts file (``0.0.0.0 name``); ``#`` starts a comment.

    ``*.name`` and ``||name^`` (as ad blockers write it) mean the same as ``name``.
    """
    found = set()
    for line in lines:
        words = line.split("#", 1)[0].split()
        if len(words) > 1 and _is_address(words[0]):
            words = words[1:]
        for word in words:
            name = normal_domain(word.removeprefix("||").removesuffix("^").removeprefix("*.").removeprefix("."))
            # A hosts file also names the machine itself; blocking a bare label would block nothing on the web.
            if "." in name and not _is_address(name):
                found.add(name)
    return frozenset(found)


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True
