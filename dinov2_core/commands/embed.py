"""``dinov2 embed``: a vector for every image. The work is in ``curation/folders/embed``."""

from __future__ import annotations

import argparse

from dinov2_core.commands import Subparsers, options


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 embed IMAGES --weights W --out DIR``."""
    text = "embed a folder, tars or Parquet of images"
    parser = subparsers.add_parser("embed", help=text, description=text)
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("--weights", required=True, help="a backbone's file or folder, or a copy-detection network")
    options.add_out(parser)
    parser.set_defaults(function=embed)


def embed(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.embed import embed

    options.tell(embed(given.images, given.out, given.weights, workers=given.workers), given.out)
