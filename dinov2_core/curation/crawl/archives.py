"""Web archives (WARC): HTML pages to read references from, and images whose bytes are already there.

Every record is read up to a limit, whatever its length says and however well it compresses.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from dinov2_core.curation.crawl.opt_out import directives


class Record(NamedTuple):
    """One archived response. ``position`` is where :func:`read_at` finds it again; ``problem`` why it is unusable."""

    url: str
    position: int
    data: bytes = b""
    html: bool = False
    charset: str = ""
    directives: frozenset[str] = frozenset()
    problem: str = ""


def records(archive: IO[bytes], *, max_bytes: int, agent: str) -> Iterator[Record]:
    """The responses of a WARC file (plain, gzip or zstd), in order.

    Raises:
        OSError: it is no WARC, or damaged; the records before that point have been yielded.
    """
    for record in ArchiveIterator(archive, record_types=WarcRecordType.response, auto_decode="transfer"):
        yield _read(record, max_bytes, agent)


def read_at(archive: IO[bytes], position: int, *, max_bytes: int) -> bytes:
    """The body of the record at ``position``."""
    archive.seek(position)
    for record in ArchiveIterator(archive, record_types=WarcRecordType.response, auto_decode="transfer"):
        return _read(record, max_bytes, "").data
    raise OSError("no record there")


def _read(record: WarcRecord, max_bytes: int, agent: str) -> Record:
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    position = int(record.stream_pos)
    headers = record.http_headers
    if headers is None:
        return Record(url, position, problem="not http")
    if headers.status_code != 200:
        return Record(url, position, problem=f"http {headers.status_code}")
    expected = min(int(record.content_length), max_bytes + 1)
    data = record.reader.read(max_bytes + 1)
    # The library ends quietly where an archive was cut off. A chunked body is shorter than its record anyway.
    if len(data) < expected and not headers.get("Transfer-Encoding"):
        return Record(url, position, problem="truncated")
    encoding = (headers.get("Content-Encoding") or "").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        try:
            data = zlib.decompressobj(wbits=47).decompress(data, max_bytes + 1)
        except zlib.error:
            return Record(url, position, problem="content encoding")
    elif encoding not in ("", "identity"):
        return Record(url, position, problem="content encoding")
    if len(data) > max_bytes:
        return Record(url, position, problem="too large")
    said = [value for name, value in headers.items() if name.lower() == "x-robots-tag"]
    return Record(
        url,
        position,
        data,
        html="html" in (record.http_content_type or ""),
        charset=record.http_charset or "",
        directives=frozenset(directives(said, agent)),
    )
