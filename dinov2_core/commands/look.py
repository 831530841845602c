"""``dinov2 look``: a page of patch features, attention and neighbours of anybody's pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from dinov2_core.commands import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 look IMAGES --weights W --out DIR``."""
    text = "show what a model sees in pictures: patch features, attention, neighbours"
    parser = subparsers.add_parser("look", help=text, description=text)
    parser.add_argument("images", metavar="IMAGES", type=Path, nargs="+", help="picture files or folders")
    parser.add_argument("--weights", required=True, help="a weight file, a folder, timm:NAME or hf:OWNER/NAME")
    parser.add_argument("--out", required=True, type=Path, help="the folder of the page")
    parser.add_argument("--size", type=int, default=0, help="input side in pixels; default: 32 patches")
    parser.add_argument("--neighbours", type=int, default=5, help="pictures in a row; default 5")
    parser.set_defaults(function=look)


def look(options: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    # Parsers are built for every call of the command line, torch is loaded for this verb only.
    from dinov2_core.evaluate import look_page
    from dinov2_core.evaluate.model import EvalModel

    paths = look_page.find(options.images)
    model = EvalModel.load(options.weights)
    settings = look_page.LookSettings(options.size, options.neighbours)
    page = look_page.write(model.backbone, model.preprocessing, paths, options.out, settings)
    print(f"{page}: {len(paths)} pictures")
