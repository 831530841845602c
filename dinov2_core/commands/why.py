"""``dinov2 why``: the story of one image, from a data root or from the out folder of another command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path, PurePosixPath

from dinov2_core.commands import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 why IMAGE``."""
    text = "the whole story of an image"
    parser = subparsers.add_parser("why", help=text, description=text)
    parser.add_argument("image", metavar="IMAGE", help="an image id or its beginning, a URL, or a path")
    root = os.environ.get("DATA_ROOT", "data")
    parser.add_argument("--root", default=root, help="data root, or the --out of another command")
    parser.set_defaults(function=why)


def why(given: argparse.Namespace) -> None:
    """Print what the tables hold about ``given.image``."""
    from dinov2_core import story
    from dinov2_core.curation.folders.why import result_tables, rows_about, seen_by
    from dinov2_core.errors import UserError
    from dinov2_core.images.shards import image_id
    from dinov2_core.storage import Store

    store = Store(given.root)
    names = [given.image]
    if Path(given.image).is_file():
        # The same bytes are known under another name.
        names.append(image_id(Path(given.image).read_bytes()))
    if not result_tables(store):
        story.print_story(store, next((n for n in names if story.find_ids(store, n)), given.image))
        return
    # A path may be given from the working folder; the tables count from the set's.
    parts = PurePosixPath(given.image).parts
    names += ["/".join(parts[i:]) for i in range(1, len(parts)) if "://" not in given.image]
    for name in names:
        found = list(rows_about(store, name))
        if found:
            print(f"image {name}")
            for table, rows in found:
                print(f"\n{table}")
                story.print_rows(rows, name)
            return
    for name in names:
        if verbs := seen_by(store, name):
            print(f"image {name}\n\nread by {', '.join(verbs)}, and in none of the results")
            return
    raise UserError(f"no image '{given.image}' is in these tables", where=given.root, todo="give a path, URL or id")
