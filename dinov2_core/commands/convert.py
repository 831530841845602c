"""``dinov2 convert``: weights of one format into another. The formats are in ``dinov2_core/model``."""

from __future__ import annotations

import argparse
from pathlib import Path

from dinov2_core.commands import Subparsers

FORMATS = ("safetensors", "huggingface", "timm", "onnx")


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 convert WEIGHTS --to FORMAT --out PATH``."""
    text = "write a backbone's weights in another format"
    parser = subparsers.add_parser("convert", help=text, description=text)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="a weight file or a Hugging Face folder")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--out", required=True, type=Path, help="a file; for huggingface a folder")
    parser.add_argument("--heads", type=int, help="attention heads, for files that state none; default: of width 64")
    parser.add_argument("--opset", type=int, default=18, help="of an ONNX graph; default 18")
    parser.set_defaults(function=convert)


def convert(options: argparse.Namespace) -> None:
    """Read ``options.weights``, write ``options.out`` and say what came of it."""
    # Parsers are built for every call of the command line, torch is loaded for this verb only.
    from dinov2_core.model import export, weights

    backbone, preprocessing = weights.load(options.weights, heads=options.heads)
    call = ""
    if options.to == "safetensors":
        export.to_safetensors(backbone, preprocessing, options.out)
    elif options.to == "huggingface":
        export.to_huggingface(backbone, preprocessing, options.out)
    elif options.to == "timm":
        call = export.to_timm(backbone, options.out)
    else:
        export.to_onnx(backbone, preprocessing, options.out, options.opset)
    model = backbone.config
    count = sum(p.numel() for p in backbone.parameters())
    print(
        f"{options.out}: {model.depth} blocks of width {model.dim}, patch {model.patch}, {model.registers} registers, "
        f"{count:,} parameters"
    )
    if call:
        print(f"load it into {call}")
    if options.to in ("huggingface", "timm") and not export.agrees(backbone, options.to):
        size = model.image_size
        print(f"positions are interpolated otherwise there: features are equal at {size} × {size}, close elsewhere")
