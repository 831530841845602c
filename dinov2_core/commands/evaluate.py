"""``dinov2 evaluate``: scores of a model on labelled images. The protocols are in ``dinov2_core/evaluate``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dinov2_core.commands import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 evaluate --weights W --protocol P --data D --out DIR``."""
    text = "score a model by one protocol or all of them"
    parser = subparsers.add_parser("evaluate", help=text, description=text)
    parser.add_argument("--weights", required=True, help="a file, a Hugging Face folder, timm:NAME or hf:OWNER/NAME")
    parser.add_argument("--protocol", default="all", help="a name, several with commas, or all (the default)")
    parser.add_argument("--data", required=True, help="a folder with train/ and test/, or NAME=PATH of a known set")
    parser.add_argument("--out", required=True, type=Path, help="the folder of scores.md, scores.json and scores.html")
    parser.add_argument("--settings", type=Path, help="a YAML file: protocol → its settings")
    parser.add_argument("--size", type=int, help="input side in pixels; default: the model's")
    parser.add_argument("--heads", type=int, help="attention heads, for files that state none")
    parser.add_argument("--batch", type=int, default=64, help="images a forward pass")
    parser.add_argument("--processes", type=int, default=1, help="local processes that compute features, on CPUs")
    parser.add_argument("--device", help="where the backbone computes; default: a GPU where there is one")
    parser.add_argument("--no-pictures", action="store_true", help="leave out what the model sees in a few pictures")
    cache = os.environ.get("DINOV2_FEATURES", str(Path.home() / ".cache" / "dinov2-pipeline" / "features"))
    parser.add_argument("--cache", type=Path, default=Path(cache), help="where features are kept")
    parser.set_defaults(function=evaluate)


def evaluate(options: argparse.Namespace) -> None:
    """Run the protocols, write the tables and print the scores."""
    import yaml

    # Parsers are built for every call of the command line, torch is loaded for this verb only.
    from dinov2_core.evaluate import evaluation, protocols, score_tables
    from dinov2_core.evaluate.cache import FeatureCache
    from dinov2_core.evaluate.model import EvalModel
    from dinov2_core.evaluate.protocol import Context
    from dinov2_core.train.launch import joined

    names = options.protocol.split(",")
    if names != ["all"]:
        for name in names:
            protocols.get(name)
    settings = yaml.safe_load(options.settings.read_text()) if options.settings else {}
    evaluation.check_settings(settings)
    data = evaluation.open_data(options.data)
    model = EvalModel.load(options.weights, size=options.size, heads=options.heads)
    context = Context(FeatureCache(options.cache), batch=options.batch, processes=options.processes)
    with joined() as process:
        # Local processes would each want the one GPU.
        model.backbone.to(options.device or ("cpu" if options.processes > 1 else process.device))
        found = evaluation.evaluate(model, data, names, context, settings)
    if process.rank:
        return
    evaluation.save(found, model, options.out, None if options.no_pictures else data)
    print(score_tables.markdown(found.results, title=model.name, skipped=found.skipped))
    print(f"written to {options.out}/scores.md, scores.json and scores.html")
