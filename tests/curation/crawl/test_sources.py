"""A batch's folder: every kind of source becomes part of one plan, in order; what cannot be read is named."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinov2_core.curation.crawl.fetch import Limits
from dinov2_core.curation.crawl.sources import WHOLE_FILE, Held, Plan, Reader
from dinov2_core.errors import UserError
from tests.curation.crawl.test_archives import record


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def read(folder: Path, files: dict[str, bytes | str], **options: int) -> tuple[Plan, Reader]:
    for name, data in files.items():
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    limits = Limits(max_bytes=50_000, max_page_bytes=5_000)
    reader = Reader(fsspec.filesystem("file"), str(folder), limits, 100, "bot", frozenset({"noai"}))
    return reader.read(sorted(files)), reader


def test_lists_in_every_form(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["c"], "URL": ["http://d/"]}), tmp_path / "d.parquet")
    files = {
        "a.txt": "# comment\nhttp://a/\n\n  http://b/ \r\n",
        "c.csv": "id,url\n1,http://c/\n2,\n",
        "d.parquet": (tmp_path / "d.parquet").read_bytes(),
        "e.xml": '<urlset xmlns="http://sitemaps.example/0.9"><url><loc> http://e/ </loc></url></urlset>',
    }
    plan, _ = read(tmp_path, files)
    assert [r.url for r in plan.listed] == ["http://a/", "http://b/", "http://c/", "http://d/", "http://e/"]
    assert not plan.problems


def test_archived_and_saved_pages_archived_and_loose_images(tmp_path: Path) -> None:
    page = b"<!doctype html><img src=/held.png><img src=/live.png>"
    archive = record("http://a/p", page) + record("http://a/held.png", png()) + record("http://a/alone.png", png())
    plan, reader = read(tmp_path, {"a.warc": archive, "b.html": "<base href=http://b/><img src=x.png>", "c.png": png()})
    assert [(r.url, r.page) for r in plan.references] == [
        ("http://a/held.png", "http://a/p"),
        ("http://a/live.png", "http://a/p"),
        ("http://b/x.png", ""),
        ("http://a/alone.png", ""),
        ("c.png", ""),
    ]
    assert plan.held["c.png"] == Held("c.png", WHOLE_FILE)
    assert {name: reader.held_bytes(held) for name, held in plan.held.items()} == dict.fromkeys(
        ("http://a/held.png", "http://a/alone.png", "c.png"), png()
    )
    assert plan.pages == 2


def test_opt_outs_in_an_archive_are_honoured(tmp_path: Path) -> None:
    said = "X-Robots-Tag: noai\r\n"
    archive = record("http://a/p", b"<html><img src=x.png>", headers=said)
    plan, _ = read(tmp_path, {"a.warc": archive + record("http://a/i.png", png(), headers=said)})
    assert [r.refused for r in plan.references] == ["opted out"]
    assert plan.problems == [("http://a/i.png", "refused", "opted out")]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><urlset><url><loc>&b;</loc></url></urlset>'


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.warc": b"no archive at all\n" * 99}, ("a.warc", "failed", "damaged source")),
        ({"a.xml": "<urlset><url>"}, ("a.xml", "failed", "damaged source")),
        ({"a.xml": BOMB}, ("a.xml", "refused", "unsafe sitemap")),
        ({"a.parquet": b"nothing"}, ("a.parquet", "failed", "damaged source")),
        ({"a.docx": b"x"}, ("a.docx", "refused", "unknown kind of source")),
        ({"a.html": "x" * 5_001}, ("a.html", "refused", "page too large")),
        ({"a.warc": record("http://a/", b"", status="404 Gone")}, ("http://a/", "failed", "http 404")),
        ({"a.warc": record("http://a/", b"<svg/>")}, ("http://a/", "refused", "svg")),
        ({"a.html": "<img src=a.png>" + "<div>" * 20_001}, ("a.html", "refused", "page too large")),
    ],
)
def test_a_source_that_cannot_be_used_is_named(
    tmp_path: Path, files: dict[str, bytes | str], problem: tuple[str, str, str]
) -> None:
    plan, _ = read(tmp_path, files)
    assert plan.problems == [problem]


def test_what_is_beyond_the_page_limit_is_counted_and_said(tmp_path: Path) -> None:
    body = "<base href=http://b/>" + "".join(f"<img src={n}>" for n in range(150))
    plan, _ = read(tmp_path, {"a.html": body})
    assert (len(plan.references), plan.beyond) == (100, 50)
    assert plan.problems == [("a.html", "refused", "more images than the page limit")]


def test_a_table_without_urls_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column of URLs .* among id, name"):
        read(tmp_path, {"a.csv": "id,name\n1,x\n"})
