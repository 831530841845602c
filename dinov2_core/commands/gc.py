"""``dinov2 gc``: show, and with ``--yes`` delete, the files of a data root that no kept version refers to."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dinov2_core.commands import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 gc [--yes]``."""
    text = "what no kept version refers to: shown, and deleted with --yes"
    parser = subparsers.add_parser("gc", help=text, description=text)
    root = os.environ.get("DATA_ROOT", "data")
    parser.add_argument("--root", default=root, help="data root: a folder or s3://…")
    parser.add_argument(
        "--repo",
        default=["."],
        nargs="*",
        metavar="CHECKOUT",
        help="checkouts whose commits name versions to keep; default: this folder's",
    )
    parser.add_argument("--versions", choices=("all", "tips"), default="all", help="every commit, or branches and tags")
    parser.add_argument("--grace", type=float, default=24, metavar="HOURS", help="younger files are kept; default 24")
    parser.add_argument("--yes", action="store_true", help="delete; without it nothing is touched")
    parser.set_defaults(function=gc)


def gc(given: argparse.Namespace) -> None:
    """Print the plan and carry it out where that was asked for."""
    import time

    from dinov2_core import gc as collector
    from dinov2_core import kept
    from dinov2_core.storage import Store

    store = Store(given.root)
    wanted = list(kept.pins(store).values())
    print(f"kept: what is current, {len(wanted)} pinned by registered models", end="")
    for folder in [name for name in given.repo if name]:
        found = kept.committed(Path(folder), given.versions)
        print(f", {'no git checkout' if found is None else f'{len(found)} named by commits'} in {folder}", end="")
        wanted += found or []
    print()
    now, grace = time.time(), given.grace * 3600
    planned = collector.plan(store, wanted, now, grace)
    _show(planned)
    if not given.yes:
        print("nothing was deleted; run again with --yes to do it")
        return
    done = collector.free(store, wanted, now, grace)
    print(f"deleted {done.files} files, {_size(done.bytes)}, and {len(done.uploads)} unfinished uploads")


def _show(planned: object) -> None:
    from dinov2_core.gc import Plan

    assert isinstance(planned, Plan)
    for one in planned.garbage:
        print(f"{'/'.join(one.place):40} {len(one.files):6} files {_size(one.bytes):>10}")
        for entry in one.files[:3]:
            print(f"    {entry.path}")
        if len(one.files) > 3:
            print(f"    and {len(one.files) - 3} more")
    for upload in planned.uploads:
        print(f"unfinished upload of {upload.path}, {upload.age / 3600:.0f} hours old")
    for why in sorted(set(planned.left.values())):
        stages = sorted(stage for stage, reason in planned.left.items() if reason == why)
        print(f"left alone: {', '.join(stages)}: {why}")
    print(f"to free: {planned.files} files, {_size(planned.bytes)}, {len(planned.uploads)} unfinished uploads")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
