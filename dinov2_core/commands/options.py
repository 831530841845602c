"""Options and output that the verbs on folders share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any


def whole(low: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number of ``low`` or more."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of {low} or more")
        return value

    return read


def share(text: str) -> float:
    """The type of an option that takes a number over 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number over 0 and up to 1")
    return value


def add_out(parser: argparse.ArgumentParser, *, workers: bool = True) -> None:
    """``--out``, and ``--workers`` where the verb works in tasks."""
    parser.add_argument("--out", required=True, help="folder for the results: a path or s3://…")
    if workers:
        parser.add_argument("--workers", type=whole(0), default=0, help="processes; 0 = one a core")


def add_search(parser: argparse.ArgumentParser, paper: float) -> None:
    """What ``dedup`` and ``leaks`` have in common."""
    parser.add_argument("--threshold", default="", help=f"cosine; default {paper}, or auto: fitted to the pool")
    parser.add_argument("--k", type=whole(1), default=64, help="neighbours of an image at most; default 64")
    parser.add_argument("--weights", default="sscd", help="SSCD: an ONNX or TorchScript file, sscd or sscd_distilled")
    parser.add_argument("--side", type=whole(32), default=288, help="pixels at which images are compared; default 288")
    parser.add_argument("--align", action="store_true", help="also take pairs over 0.25 whose fine detail coincides")
    parser.add_argument("--flips", action="store_true", help="compare mirrored images too, for twice the work")
    parser.add_argument("--centre", action="store_true", help="subtract the pool's mean embedding")
    parser.add_argument("--whiten", action="store_true", help="centre, and scale directions to equal spread")
    parser.add_argument("--calibrate", action="store_true", help="plant copies and measure what thresholds do here")
    parser.add_argument("--sample", type=whole(1), default=500, help="images of which copies are planted; default 500")
    parser.add_argument("--precision", type=share, default=0.9, help="wanted of a fitted threshold; default 0.9")
    parser.add_argument("--memory", type=whole(0), default=2048, help="MiB for what grows with the pool; default 2048")
    parser.add_argument("--share", type=share, default=0.05, help="images that have a copy, as a guess; default 0.05")


def search(options: argparse.Namespace, paper: float) -> tuple[Any, Any]:
    """``(Model, Search)`` of the options of :func:`add_search`."""
    from dinov2_core.curation.folders.copies import Search
    from dinov2_core.curation.folders.dedup import rule_of
    from dinov2_core.curation.folders.description import Model

    rule = rule_of(options.threshold, paper, align=options.align)
    found = Search(
        rule,
        options.k,
        options.centre,
        options.whiten,
        calibrate=options.calibrate or rule is None,
        sample=options.sample,
        precision=options.precision,
        share=options.share,
        memory=options.memory << 20,
    )
    return Model(options.weights, options.side, options.flips), found


def tell(said: Mapping[str, Any], out: str) -> None:
    """Print a command's table and where the rest is."""
    print(said["table"])
    print(f"\nresults are in {out}")
