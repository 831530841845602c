"""``dinov2 screen``: a verdict for every image. The work is in ``curation/folders/screen``."""

from __future__ import annotations

import argparse

from dinov2_core.commands import Subparsers, options


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 screen IMAGES --out DIR``."""
    text = "judge a folder, tars or Parquet of images: damage, quality, known bad images, NSFW, faces, duplicates"
    parser = subparsers.add_parser("screen", help=text, description=text)
    parser.add_argument("images", metavar="IMAGES")
    options.add_out(parser)
    parser.add_argument("--blur", action="store_true", help="write copies with faces blurred")
    parser.add_argument("--hashes", action="append", default=[], metavar="FILE", help="known bad: sha256, md5 or PDQ")
    parser.add_argument("--nsfw-threshold", type=options.share, default=0.9, help="default 0.9")
    parser.add_argument("--nsfw-model", default="nsfw", help="a file or part; empty: no check")
    parser.add_argument("--face-model", default="centerface", help="a file or part; empty: no check")
    parser.add_argument("--min-side", type=options.whole(1), default=16, help="pixels; default 16")
    parser.set_defaults(function=screen)


def screen(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.screen import screen
    from dinov2_core.curation.quality import QualityRules
    from dinov2_core.curation.screening import ScreenRules

    rules = ScreenRules(
        quality=QualityRules(min_side=given.min_side),
        hash_lists=tuple(given.hashes),
        nsfw_threshold=given.nsfw_threshold,
        nsfw_model=given.nsfw_model,
        face_model=given.face_model,
    )
    options.tell(screen(given.images, given.out, rules, blur=given.blur, workers=given.workers), given.out)
