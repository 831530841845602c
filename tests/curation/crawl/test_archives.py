"""Archives: pages and images come out, damage and bombs stop at a limit, and records can be found again."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections.abc import Callable

import pytest

from dinov2_core.curation.crawl.archives import Record, read_at, records

Pack = Callable[[bytes], bytes]


def record(url: str, body: bytes, *, kind: str = "response", status: str = "200 OK", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=latin-1\r\n{headers}\r\n".encode()
    block = head + body
    lines = f"WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
    lines += (
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return lines.encode() + block + b"\r\n\r\n"


def read(data: bytes, limit: int = 10_000) -> list[Record]:
    return list(records(io.BytesIO(data), max_bytes=limit, agent="bot"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_responses_in_order_and_found_again_by_position(pack: Pack) -> None:
    parts = [record("http://a/", b"one"), record("http://b/", b"", kind="request"), record("http://c/", b"two")]
    data = b"".join(pack(part) for part in parts)
    found = read(data)
    assert [(r.url, r.data, r.html, r.problem) for r in found] == [
        ("http://a/", b"one", True, ""),
        ("http://c/", b"two", True, ""),
    ]
    assert "é".encode(found[0].charset) == b"\xe9"
    for one in found:
        assert read_at(io.BytesIO(data), one.position, max_bytes=100) == one.data


def test_other_statuses_and_opt_outs() -> None:
    found = read(
        record("http://a/", b"", status="404 Not Found") + record("http://b/", b"x", headers="X-Robots-Tag: noai\r\n")
    )
    assert found[0].problem == "http 404"
    assert found[1].directives == {"noai"}


def test_encodings_and_bombs() -> None:
    zipped = record("http://a/", gzip.compress(b"hello"), headers="Content-Encoding: gzip\r\n")
    bomb = record("http://b/", zlib.compress(bytes(50_000_000)), headers="Content-Encoding: deflate\r\n")
    large = record("http://c/", bytes(20_000))
    other = record("http://d/", b"x", headers="Content-Encoding: br\r\n")
    chunked = record("http://e/", b"5\r\nhello\r\n0\r\n\r\n", headers="Transfer-Encoding: chunked\r\n")
    found = read(zipped + bomb + large + other + chunked, limit=60_000)
    assert found[0].data == b"hello"
    assert [r.problem for r in found] == ["", "too large", "", "content encoding", ""]
    assert found[4].data == b"hello"
    assert read(large, limit=19_999)[0].problem == "too large"


def test_bombs_in_the_compression_of_the_archive_itself() -> None:
    body = gzip.compress(record("http://a/", bytes(80_000_000))) + gzip.compress(record("http://b/", b"two"))
    assert [(r.problem, r.data) for r in read(body, limit=60_000)] == [("too large", b""), ("", b"two")]
    endless = gzip.compress(b"WARC/1.0\r\nWARC-Type: response\r\nX: " + b"a" * 30_000_000)
    try:
        found = read(endless, limit=60_000)
    except OSError:
        found = []
    assert not any(r.data for r in found)


@pytest.mark.parametrize("missing", [30, 2000, 5000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_record_that_was_cut_off_is_never_taken_for_a_whole_one(missing: int, pack: Pack) -> None:
    last = pack(record("http://b/", random.Random(0).randbytes(5000)))
    found = read(pack(record("http://a/", b"one")) + last[:-missing])
    assert [(r.data, r.problem) for r in found] == [(b"one", ""), (b"", "truncated")]


def test_what_is_no_archive() -> None:
    with pytest.raises(OSError, match=r"."):
        read(b"hello, I am a text\n" * 100)
