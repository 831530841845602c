"""``python -m pipelines.gc``: ``dinov2 gc`` after the pins of the data root were compared with the model registry.

A version that was registered from elsewhere is pinned now, and one that was deleted is not kept any more. Without this
`dinov2 gc` keeps every version that was ever registered from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dinov2_core import cli, kept
from dinov2_core.errors import UserError
from dinov2_core.kept import Kept
from dinov2_core.storage import Store
from pipelines.resources.tracking import Tracking


def compare(store: Store, tracking: Tracking) -> tuple[list[str], list[str]]:
    """Pin and unpin until the data root's pins are the registry's versions; the names of ``(added, removed)``."""
    name = tracking.model_name
    wanted = {}
    for version in tracking.client().search_model_versions(f"name = '{name}'"):
        if hash_ := version.tags.get("manifest"):
            who = f"model {name} version {version.version}"
            wanted[f"{name}-{version.version}"] = Kept(hash_, "registered_model", who)
    there = kept.pins(store)
    added = [pin for pin in wanted if pin not in there]
    removed = [pin for pin in there if pin.startswith(f"{name}-") and pin not in wanted]
    for pin in added:
        kept.pin(store, pin, wanted[pin])
    for pin in removed:
        kept.unpin(store, pin)
    return added, removed


def main(arguments: Sequence[str]) -> int:
    """Compare, then ``dinov2 gc`` with the same arguments."""
    root = os.environ.get("DATA_ROOT", "data")
    if "--root" in arguments:
        root = arguments[list(arguments).index("--root") + 1]
    try:
        added, removed = compare(Store(root), Tracking.from_environment())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"model versions pinned: {', '.join(added) or 'none'}; let go: {', '.join(removed) or 'none'}")
    return cli.main(["gc", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
