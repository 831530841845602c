"""Where a connection may go: public addresses only, checked on the address that is then connected to.

The check sits in the resolver, so a name that answers differently the second time (rebinding) gains nothing: what
was checked is what is used.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(OSError):
    """A name resolved to an address that is not public."""


def is_public(address: str) -> bool:
    """Whether an IP address (text) is a public unicast one, seen through every IPv4-in-IPv6 form."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def literal(host: str) -> str:
    """The IP address that ``host`` is, in any spelling that a C library accepts (``2130706433``); else empty."""
    host = host.strip("[]")
    try:
        return str(ipaddress.ip_address(host.split("%", 1)[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if host else ""
    except (OSError, UnicodeError):
        return ""


class PublicResolver(AbstractResolver):
    """Resolves names and refuses private addresses, unless ``allow_private``.

    ``hosts`` maps a name (or ``*``) to ``address:port``: those names go there whatever DNS says, and since a person
    wrote that down, the address is not checked.
    """

    def __init__(self, *, allow_private: bool = False, hosts: Mapping[str, str] | None = None) -> None:
        self.allow_private, self.hosts = allow_private, dict(hosts or {})
        self.inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        override = self.hosts.get(host, self.hosts.get("*"))
        if override is not None:
            address, _, to = override.rpartition(":")
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            return [ResolveResult(hostname=host, host=address.strip("[]"), port=int(to), family=kind, proto=0, flags=0)]
        found = await self.inner.resolve(host, port, family)
        if self.allow_private:
            return found
        # One private answer among public ones is an attack or a mistake; neither is fetched.
        if not all(is_public(result["host"]) for result in found):
            raise PrivateAddressError(f"{host} resolves to a private address")
        return found

    async def close(self) -> None:
        await self.inner.close()
