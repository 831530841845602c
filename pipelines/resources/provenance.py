"""Which code made something: the commit, what differs from it, and the locked environment, as tags."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "DINOV2_COMMIT"
"""Environment variable that names the commit where there is no checkout, as in an image."""
_NAMED = 20


def tags(root: Path = ROOT) -> dict[str, str]:
    """``git.commit``, ``git.branch``, ``git.dirty``; of a changed checkout the files and a hash of the difference, but
    not its text, in which a secret could stand; ``lock.sha256`` of ``requirements.lock``."""
    found = {"git.commit": commit(root)}
    found["mlflow.source.git.commit"] = found["git.commit"].removesuffix("+")
    if branch := _git(root, "rev-parse", "--abbrev-ref", "HEAD"):
        found["git.branch"] = branch
    changed = _git(root, "diff", "HEAD", "--name-only").splitlines()
    found["git.dirty"] = str(bool(changed)).lower()
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        found["git.changed"] = ", ".join(changed[:_NAMED]) + more
        found["git.diff.sha256"] = hashlib.sha256(_git(root, "diff", "HEAD").encode()).hexdigest()
    lock = root / "requirements.lock"
    if lock.exists():
        found["lock.sha256"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    return found


def commit(root: Path = ROOT) -> str:
    """The checkout's commit, with ``+`` where files differ; else what :data:`COMMIT` says, else ``unknown``."""
    return _git(root, "describe", "--always", "--dirty=+", "--abbrev=40") or os.environ.get(COMMIT) or "unknown"


def _git(root: Path, *arguments: str) -> str:
    try:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)  # noqa: S603, S607
    except OSError:
        return ""
    return run.stdout.decode(errors="replace").strip() if run.returncode == 0 else ""
