"""``dinov2 dedup``: copies within a set of images. The work is in ``curation/folders/dedup``."""

from __future__ import annotations

import argparse

from dinov2_core.commands import Subparsers, options

PAPER = 0.6


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 dedup IMAGES --out DIR``."""
    text = "find copies in a folder, tars or Parquet of images, and say which one of each to keep"
    parser = subparsers.add_parser("dedup", help=text, description=text)
    parser.add_argument("images", metavar="IMAGES")
    options.add_out(parser)
    options.add_search(parser, PAPER)
    parser.set_defaults(function=dedup)


def dedup(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.dedup import dedup

    said = dedup(given.images, given.out, *options.search(given, PAPER), workers=given.workers)
    options.tell(said, given.out)
