"""Code run by another process, as the object store's tests need it: with other credentials, servers and memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Sequence

from tests.weed import environment


def elsewhere(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in another process, with ``env`` beside this one's environment."""
    with environment(env):
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
        )


def complaints(root: str, actions: Sequence[str], **env: str) -> list[str]:
    """What a store at ``root`` says to each of ``actions`` (calls of its methods): one line where it is a user's error.

    Anything else that is raised fails the test, data called damaged first of all.
    """
    ended = elsewhere(
        f"""
        from dinov2_core.errors import DamagedDataError, UserError
        from dinov2_core.storage import Store
        for action in {tuple(actions)}:
            try:
                eval(f"Store({root!r}).{{action}}")
            except DamagedDataError:
                raise
            except UserError as error:
                print(error)
        """,
        **env,
    )
    assert ended.returncode == 0, ended.stderr[-1500:]
    said = ended.stdout.strip().splitlines()
    assert len(said) == len(actions), "a line each"
    return said
