"""The verbs of ``dinov2`` beyond the stages: one module a verb, each with ``register(subparsers) -> None``.

``register`` adds the verb's parser and sets ``function=`` to what runs it with the parsed options. A module imports
nothing heavy (torch, pyarrow, faiss, …) at its head: parsers are built for every call, ``dinov2 --help`` included.
What a verb does belongs in the library; the module here only reads options and prints.
"""

from __future__ import annotations

import argparse
import importlib
from typing import TypeAlias

COMMANDS: tuple[str, ...] = (
    "crawl",
    "screen",
    "dedup",
    "leaks",
    "embed",
    "curate",
    "why",
    "convert",
    "evaluate",
    "pretrain",
    "look",
    "gc",
    "plan",
)
"""Module names in this package, in the order of ``dinov2 --help``."""

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What ``add_subparsers`` returns; argparse has no public name for it."""


def register_all(subparsers: Subparsers) -> None:
    """Let every command add its parser."""
    for name in COMMANDS:
        importlib.import_module(f"{__name__}.{name}").register(subparsers)
