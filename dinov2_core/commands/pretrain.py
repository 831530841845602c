"""``dinov2 pretrain``: train on any images. The work is in ``dinov2_core/pretraining.py``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from dinov2_core.commands import Subparsers
from dinov2_core.errors import ConfigError


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 pretrain --recipe R --data FOLDER_OR_SHARDS --out DIR [key=value …]``."""
    text = "train on a folder of images, shards or Parquet; run again to go on"
    parser = subparsers.add_parser("pretrain", help=text, description=text)
    _add_options(parser)
    parser.set_defaults(function=pretrain)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options in ``arguments``, for whoever starts a training otherwise."""
    parser = argparse.ArgumentParser(prog="dinov2 pretrain")
    _add_options(parser)
    return parser.parse_args(arguments)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", required=True, help="a name; an unknown one lists them")
    parser.add_argument("--data", required=True, help="a folder of images, of tars or of Parquet, a stage's, or a file")
    parser.add_argument("--out", required=True, type=Path, help="the run's folder")
    parser.add_argument("--init", default="", metavar="CKPT", help="start from these weights, or this run's folder")
    parser.add_argument("--teacher", default="", metavar="CKPT", help="distil from this checkpoint or run, with heads")
    parser.add_argument("--student", default="vit_small", help="the shape to distil into")
    parser.add_argument(
        "--high-resolution", default=0, type=int, metavar="N", help="the stage at N pixels, from --init"
    )
    parser.add_argument("--workers", type=int, default=-1, help="processes that load; -1: the cores but one")
    parser.add_argument("--log-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--checkpoint-every", type=int, default=1000, metavar="STEPS")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings of the recipe, e.g. optim.base_lr=1e-3; and how it is computed, e.g. efficiency.accumulate=4",
    )


def request_of(options: argparse.Namespace, **replaced: Any) -> Any:
    """The ``pretraining.Request`` of parsed options, with some fields replaced."""
    from dinov2_core import config, pretraining
    from dinov2_core.train.loader import LoaderConfig
    from dinov2_core.train.recipe import EfficiencyConfig

    changes, efficiency = split_settings(read_settings(options.settings))
    request = pretraining.Request(
        recipe=options.recipe,
        data=options.data,
        out=options.out,
        init=options.init,
        teacher=options.teacher,
        student=options.student,
        high_resolution=options.high_resolution,
        changes=changes,
        efficiency=config.build(EfficiencyConfig, efficiency, where="efficiency"),
        loader=LoaderConfig(workers=options.workers),
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
    )
    return dataclasses.replace(request, **replaced)


def pretrain(options: argparse.Namespace) -> None:
    """Train and print the summary."""
    from dinov2_core import pretraining
    from dinov2_core.train.preemption import EXIT_CODE, Preempted

    try:
        summary = pretraining.pretrain(request_of(options))
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(EXIT_CODE)
    for name, value in summary.items():
        print(f"{name}: {value}")


def split_settings(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs to the recipe, and what stands behind ``efficiency.``, without that."""
    prefix = "efficiency."
    own = {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
    return {k: v for k, v in settings.items() if not k.startswith(prefix)}, own


def read_settings(settings: list[str]) -> dict[str, Any]:
    """``["steps=5", "crops.blur=as_intended"]`` as names and values; values are read as YAML."""
    import yaml

    found = {}
    for text in settings:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"'{text}' is not key=value", where="dinov2 pretrain", todo="e.g. steps=1000")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"'{value}' cannot be read", where=name, todo="quote it") from error
    return found
