"""``dinov2 curate``: a training set out of a pool. The work is in ``curation/folders/curate``."""

from __future__ import annotations

import argparse
import sys

from dinov2_core.commands import Subparsers, options

MODES = ("sample", "cluster", "hierarchical", "mix")
_STAND_IN = "sscd"


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 curate --pool A --seeds B --out DIR``."""
    text = "select the images of a pool that are like the seeds, or that cover it evenly"
    parser = subparsers.add_parser("curate", help=text, description=text)
    parser.add_argument("--pool", required=True, metavar="IMAGES")
    parser.add_argument("--seeds", required=True, metavar="IMAGES")
    parser.add_argument("--mode", choices=MODES, default="sample")
    parser.add_argument("--target", type=options.whole(0), default=0, help="images at most; 0 = what the rules give")
    parser.add_argument("--k", type=options.whole(1), default=4, help="images a seed in sample mode; default 4")
    parser.add_argument(
        "--clusters", type=options.whole(0), default=0, help="0 = a twentieth of the pool, 100,000 at most"
    )
    parser.add_argument(
        "--min-hits", type=options.whole(0), default=3, help="a cluster counts with more seeds than this; default 3"
    )
    parser.add_argument("--weights", default="", help="the backbone to compare with; default: the copy detector")
    parser.add_argument("--memory", type=options.whole(0), default=2048, help="MiB for the embeddings; default 2048")
    options.add_out(parser)
    parser.set_defaults(function=curate)


def curate(given: argparse.Namespace) -> None:
    """Run and print."""
    from dinov2_core.curation.folders.curate import Recipe, curate

    if not given.weights:
        print("no --weights: compared by the copy detector, which knows appearance and not meaning", file=sys.stderr)
    recipe = Recipe(given.mode, given.target, given.k, given.clusters, given.min_hits, memory=given.memory << 20)
    weights = given.weights or _STAND_IN
    options.tell(curate(given.pool, given.seeds, given.out, weights, recipe, workers=given.workers), given.out)
