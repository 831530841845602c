"""``dinov2 convert``: weights of one format into another. The formats are in ``dinov2_core/model``."""

from __future__ import annotations

import argparse
from pathlib import Path

from dinov2_core.commands import Subparsers

FORMATS = ("safetensors", "huggingface", "timm", "onnx")


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 convert WEIGHTS --to FORMAT --out PATH``."""
    text = "write weights in another format"
    parser = subparsers.add_parser("convert", help=text, description=text)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="a weight file or a Hugging Face folder")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--out", required=True, type=Path, help="a file; for huggingface a folder")
    parser.set_defaults(function=convert)


def convert(options: argparse.Namespace) -> None:
    """Read ``options.weights``, write ``options.out``."""
    from dinov2_core.model import weights

    backbone, preprocessing = weights.load(options.weights)
    options.out.write_bytes(weights.to_bytes(backbone, preprocessing))
