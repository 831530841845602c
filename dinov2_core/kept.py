"""Who refers to a version of the data: commits of the checkout, and pins in the data root (registered models).

A commit names versions in its files ``metrics/STAGE.json`` (``manifest``: partition → hash). A pin is a small file
below ``.kept`` that whoever hands a model out leaves there, so that no command needs the model registry to know it.
What is done with what nobody refers to is in ``gc.py``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinov2_core.errors import UserError
from dinov2_core.storage import Store

METRICS = "metrics"
"""The checkout's folder of the files that name versions."""
PINS = ".kept"

Versions = Literal["all", "tips"]
"""Which commits count: all that a branch or tag leads to, or only those that branches and tags name."""


@dataclass(frozen=True)
class Kept:
    """``hash`` of a manifest of ``stage`` that ``who`` refers to."""

    hash: str
    stage: str
    who: str


def pin(store: Store, name: str, kept: Kept) -> None:
    """Let ``name`` (of the characters of a file name) refer to a version until :func:`unpin`."""
    body = {"hash": kept.hash, "stage": kept.stage, "who": kept.who}
    store.write_bytes(f"{PINS}/{name}.json", json.dumps(body).encode())


def unpin(store: Store, name: str) -> None:
    """Forget a pin."""
    store.delete(f"{PINS}/{name}.json")


def pins(store: Store) -> dict[str, Kept]:
    """All pins by name."""
    found = {}
    for path in store.find(PINS):
        body = json.loads(store.read_bytes(path))
        found[path.rsplit("/", 1)[-1].removesuffix(".json")] = Kept(body["hash"], body["stage"], body["who"])
    return found


def committed(repository: Path, versions: Versions = "all") -> list[Kept] | None:
    """What the commits of a checkout, and the files that lie in it now, refer to; None where it is no checkout.

    Raises:
        UserError: git does not answer: then nobody knows what is kept.
    """
    top = _git(repository, ["rev-parse", "--show-toplevel"], missing="not a git repository")
    if top is None:
        return None
    root = Path(top.decode().strip())
    found = [one for path in sorted((root / METRICS).glob("*.json")) for one in _named(path.stem, path.read_bytes())]
    walk = ["--no-walk"] if versions == "tips" else []
    # In a repository without a commit there is no HEAD.
    heads = ["--all", *(["HEAD"] if _git(root, ["rev-parse", "-q", "--verify", "HEAD"], missing="") else [])]
    listed = _git(root, ["rev-list", *walk, "--objects", *heads, "--", METRICS]) or b""
    for line in listed.decode().splitlines():
        blob, _, path = line.partition(" ")
        if path.startswith(f"{METRICS}/") and path.endswith(".json"):
            content = _git(root, ["cat-file", "blob", blob]) or b""
            found += _named(Path(path).stem, content)
    return sorted(set(found), key=lambda one: (one.stage, one.hash))


def _named(stage: str, content: bytes) -> list[Kept]:
    try:
        body: Any = json.loads(content)
    except ValueError:
        return []
    named = body.get("manifest") if isinstance(body, dict) else None
    if not isinstance(named, dict):
        return []
    return [Kept(str(name), stage, f"a commit's {METRICS}/{stage}.json") for name in named.values()]


def _git(folder: Path, arguments: Sequence[str], missing: str | None = None) -> bytes | None:
    """What git says; None where it fails and says ``missing``."""
    try:
        ended = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise UserError(
            f"git cannot be run: {error}", where=str(folder), todo="install git, or pass --repo ''"
        ) from error
    if ended.returncode == 0:
        return ended.stdout
    said = ended.stderr.decode(errors="replace").strip()
    if missing is not None and missing in said:
        return None
    raise UserError(f"git does not answer: {said}", where=str(folder), todo="mend it, or pass --repo ''")
