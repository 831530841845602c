"""``dinov2 dedup``: copies within a set of images. The work is in ``curation/folders/dedup``."""

from __future__ import annotations

import argparse
from typing import Any

from dinov2_core.commands import Subparsers, options

PAPER = 0.6


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 dedup IMAGES --out DIR``."""
    text = "find copies in a folder, tars or Parquet of images, and say which one of each to keep"
    parser = subparsers.add_parser("dedup", help=text, description=text)
    parser.add_argument("images", metavar="IMAGES")
    options.add_out(parser)
    options.add_search(parser, PAPER)
    text = "network: SSCD; hash: low frequencies of thumbnails, far faster, without a network; default network"
    parser.add_argument("--method", choices=("network", "hash"), default="network", help=text)
    parser.set_defaults(function=dedup)


def dedup(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.dedup import dedup

    if given.method == "hash":
        options.tell(_by_hash(given), given.out)
        return
    said = dedup(given.images, given.out, *options.search(given, PAPER), workers=given.workers)
    options.tell(said, given.out)


def _by_hash(given: argparse.Namespace) -> dict[str, Any]:
    from dinov2_core.curation import copy_hash
    from dinov2_core.curation.folders.dedup import rule_of
    from dinov2_core.curation.folders.hashing import dedup_by_hash
    from dinov2_core.errors import UserError

    rule = rule_of(given.threshold, copy_hash.THRESHOLD)
    network = [f"--{name}" for name in ("align", "flips", "centre", "whiten", "calibrate") if getattr(given, name)]
    if rule is None or network:
        raise UserError(
            f"{network[0] if network else '--threshold auto'} needs the network",
            where="--method hash",
            todo="leave it out, or use --method network",
        )
    return dedup_by_hash(
        given.images,
        given.out,
        threshold=rule.similarity,
        k=given.k,
        memory=given.memory << 20,
        workers=given.workers,
    )
