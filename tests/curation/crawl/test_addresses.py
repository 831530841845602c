"""Addresses: only public ones, in whatever spelling, and checked on the very address that is connected to."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import ResolveResult

from dinov2_core.curation.crawl.addresses import PrivateAddressError, PublicResolver, is_public, literal


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
        *("fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:db8::1", "nonsense", ""),
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("site.example", ""),
        ("", ""),
    ],
)
def test_literal_addresses_in_every_spelling(host: str, address: str) -> None:
    assert literal(host) == address


class Names:
    """Stands in for DNS: answers in turn."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int, family: int) -> list[ResolveResult]:
        found = self.answers.pop(0)
        return [ResolveResult(hostname=host, host=a, port=port, family=socket.AF_INET, proto=0, flags=0) for a in found]

    async def close(self) -> None:
        pass


def resolve(resolver: PublicResolver, host: str = "site.example") -> list[tuple[str, int]]:
    return [(r["host"], r["port"]) for r in asyncio.run(resolver.resolve(host, 80))]


def resolver(names: Names, **options: object) -> PublicResolver:
    async def make() -> PublicResolver:
        return PublicResolver(**options)

    made = asyncio.run(make())
    made.inner = names
    return made


def test_what_was_checked_is_what_is_connected_to() -> None:
    # Rebinding: the name answers publicly first and privately afterwards. Each answer is checked as it is used.
    one = resolver(Names(["1.1.1.1"], ["127.0.0.1"]))
    assert resolve(one) == [("1.1.1.1", 80)]
    with pytest.raises(PrivateAddressError):
        resolve(one)


def test_one_private_answer_among_public_ones_spoils_all() -> None:
    with pytest.raises(PrivateAddressError):
        resolve(resolver(Names(["1.1.1.1", "10.0.0.1"])))


def test_private_addresses_where_a_person_allows_them() -> None:
    assert resolve(resolver(Names(["10.0.0.1"]), allow_private=True)) == [("10.0.0.1", 80)]


def test_names_sent_elsewhere_by_hand() -> None:
    one = resolver(Names(["1.1.1.1"]), hosts={"a.example": "127.0.0.1:81", "b.example": "[::1]:82"})
    assert resolve(one, "a.example") == [("127.0.0.1", 81)]
    assert resolve(one, "b.example") == [("::1", 82)]
    assert resolve(one, "c.example") == [("1.1.1.1", 80)]
