"""Site maps of anyone: what they list, in bounded size."""

from __future__ import annotations

import contextlib
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov2_core.curation.crawl.sitemaps import UnsafeSitemapError, is_sitemap, locations

HEAD = b"<?xml version='1.0'?><urlset xmlns='http://s.example/0.9'>"
MAP = HEAD + b"<url><loc> http://a/ </loc></url><url><loc/></url></urlset>"


def test_plain_and_gzipped_maps_are_read_alike() -> None:
    for data in (MAP, gzip.compress(MAP)):
        assert is_sitemap(data)
        assert locations(data, max_bytes=1000) == ["http://a/"]


@pytest.mark.parametrize(
    "data", [b"<html><body>", b"\x89PNG\r\n", b"", gzip.compress(b"<html>", mtime=0), b"<rss><urlset>"]
)
def test_other_files_are_no_maps(data: bytes) -> None:
    assert not is_sitemap(data)


@pytest.mark.parametrize(
    "data", [MAP + b" " * 1000, gzip.compress(MAP + b" " * 10_000_000, mtime=0), b"<!ENTITY a 'b'>" + MAP]
)
def test_bombs_are_refused(data: bytes) -> None:
    with pytest.raises(UnsafeSitemapError):
        locations(data, max_bytes=1000)


@given(st.binary(max_size=60), st.integers(0, len(MAP)))
def test_damage_is_a_value_error(noise: bytes, at: int) -> None:
    for data in (noise, MAP[:at] + noise, gzip.compress(MAP)[:at] + noise):
        is_sitemap(data)
        with contextlib.suppress(ValueError, UnsafeSitemapError):
            assert all(locations(data, max_bytes=1000))
