"""What lies under the watched prefix, and which batches a run must cover because of it.

Pure functions over one listing; the sensor that acts on them is in ``sensors.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dinov2_core import config, manifest
from dinov2_core.errors import UserError
from dinov2_core.images.sets import address
from dinov2_core.stages import registry
from dinov2_core.storage import TEMPORARY, Store
from pipelines.resources.lake import Lake

_STATE = ("size", "mtime", "ETag", "LastModified", "etag", "last_modified")


def listing(lake: Lake) -> tuple[dict[str, str], list[str]]:
    """``(batch → state, files that lie in no batch)`` below ``raw_crawl.sources``, by one listing.

    A state changes whenever a file is added, removed, resized or written again.

    Raises:
        UserError: the prefix cannot be read.
    """
    params = registry.get("raw_crawl").load_params(lake.params("raw_crawl"))
    place = address(lake.store().root, params.sources)
    try:
        fs, base = fsspec.core.url_to_fs(place, use_listings_cache=False)
        if isinstance(fs, LocalFileSystem) and not fs.isdir(base):
            raise FileNotFoundError(base)
        found = fs.find(base, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the watched prefix cannot be read ({error})", where=place, todo="check raw_crawl.sources in params.yaml"
        ) from error
    batches: dict[str, list[tuple[str, ...]]] = {}
    loose = []
    for path, about in sorted(found.items()):
        name = str(path)[len(base) :].strip("/")
        if about["type"] == "directory" or TEMPORARY in name or any(p.startswith(".") for p in name.split("/")):
            continue
        batch, _, rest = name.partition("/")
        if rest:
            batches.setdefault(batch, []).append((name, *(str(about.get(key)) for key in _STATE)))
        else:
            loose.append(name)
    return {batch: config.digest(files)[:16] for batch, files in batches.items()}, loose


def unfinished(store: Store, batches: Sequence[str]) -> list[str]:
    """Batches that have been begun, but lack a manifest of some stage that runs once a batch."""
    stages = [name for name, spec in registry.STAGES.items() if spec.partitioned]
    made = [set(manifest.partitions(store, name)) for name in stages]
    begun = set.union(*made) if made else set()
    return [b for b in batches if b in begun and not all(b in one for one in made)]


def covering(changed: Sequence[str], known: Sequence[str]) -> tuple[str, str]:
    """``(first, last)`` of the range of ``known`` (in the order in which they were registered) that a run must cover.

    A batch is compared with every one that sorts before it, so what sorts after a changed one has to follow; what is
    up to date costs nothing.
    """
    first = min(changed)
    places = [place for place, name in enumerate(known) if name >= first]
    return known[places[0]], known[places[-1]]


def settled(now: Mapping[str, str], before: Mapping[str, str], done: Mapping[str, str]) -> list[str]:
    """Batches that a run has not seen in this state, and that have been in it for one look at least, sorted.

    So a file that is still being uploaded is not read half, and no clock is asked.
    """
    return sorted(name for name, state in now.items() if done.get(name) != state and before.get(name) == state)
