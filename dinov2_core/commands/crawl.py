"""``dinov2 crawl``: images of the web into shards. The work is in ``curation/folders/crawl``."""

from __future__ import annotations

import argparse
from pathlib import Path

from dinov2_core.commands import Subparsers, options


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 crawl SOURCE --out DIR``."""
    text = "fetch images: a WARC, page, site map, URL list (txt, csv, Parquet), folder or bucket of them, or a URL"
    parser = subparsers.add_parser("crawl", help=text, description=text)
    parser.add_argument("source", metavar="SOURCE")
    options.add_out(parser, workers=False)
    parser.add_argument("--blocklist", action="append", default=[], metavar="FILE", help="domains never fetched")
    parser.add_argument("--allow-private", action="store_true", help="fetch from private networks too")
    parser.set_defaults(function=crawl)


def crawl(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.crawl import crawl

    lists = [text if "://" in text else str(Path(text).absolute()) for text in given.blocklist]
    params = {"blocklists": lists, "allow_private": given.allow_private}
    options.tell(crawl(given.source, given.out, params), given.out)
