"""``dinov2 leaks``: images of a pool that show a benchmark's. The work is in ``curation/folders/dedup``."""

from __future__ import annotations

import argparse

from dinov2_core.commands import Subparsers, options

PAPER = 0.45


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 leaks --pool A --benchmark B --out DIR``."""
    text = "find images of a pool that are copies of a benchmark's"
    parser = subparsers.add_parser("leaks", help=text, description=text)
    parser.add_argument("--pool", required=True, metavar="IMAGES")
    parser.add_argument("--benchmark", required=True, metavar="IMAGES")
    options.add_out(parser)
    options.add_search(parser, PAPER)
    parser.set_defaults(function=leaks)


def leaks(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.dedup import leaks

    said = leaks(given.pool, given.benchmark, given.out, *options.search(given, PAPER), workers=given.workers)
    options.tell(said, given.out)
