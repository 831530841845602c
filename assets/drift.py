"""A batch held against the batches before it: volume, drop rates, rates of unsafe and of faces, mean embedding.

Only batches that were made alike are compared (the same settings, the same encoder), and only beyond what chance
explains. How a difference is measured is in ``dinov2_core/gates/batch_profile``.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as objects.
import dagster as dg

from assets import data_docs
from assets.gates import judge, to_result, versions_check
from dinov2_core import manifest
from dinov2_core.errors import DamagedDataError
from dinov2_core.gates import batch_profile
from dinov2_core.gates.batch_profile import BatchProfile, Rate
from dinov2_core.gates.expectation import Expect, Finding, error, warn
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store

TRAILING = 5
"""Earlier batches that a batch is compared with, the latest ones."""
PROFILES = f"{data_docs.FOLDER}/profiles"
KEPT = int(os.environ.get("DINOV2_PROFILES", "50"))
"""Profiles that stay of each table: those measured last, and those of the batches that the next one is held against."""
VOLUME, RATE, MEAN = (
    "ExpectVolumeToMatchEarlierBatches",
    "ExpectRateToMatchEarlierBatches",
    "ExpectMeanEmbeddingToMatchEarlierBatches",
)


@dataclass(frozen=True)
class Watched:
    """What is compared of a table: ``rates``, the mean of its vectors if it has any, and by how much they may move."""

    expectations: Sequence[Expect]
    rates: Sequence[Rate] = ()
    vectors: bool = False


def moves(rate: str, shows: float, blocks: float) -> list[Expect]:
    """A rate that moved by more than ``shows`` is shown, by more than ``blocks`` stops the batch."""
    return [warn(RATE, column=rate, max_shift=shows), error(RATE, column=rate, max_shift=blocks)]


LARGER = warn(VOLUME, column="rows", max_ratio=5.0)
# Batches of one crawl differ by 0.01 to 0.02 here. Beyond 1 the means of unit vectors stand at right angles or worse
# and the vectors lie close around them: another encoder, and no other kind of picture.
DRIFT = [warn(MEAN, column="embedding", max_shift=0.2), error(MEAN, column="embedding", max_shift=1.0)]
VECTORS = Watched([LARGER, *DRIFT], vectors=True)

WATCHED: Mapping[tuple[str, str], Watched] = {
    ("raw_crawl", "images"): Watched(
        [LARGER, *moves("dropped", 0.1, 0.5)],
        [Rate("dropped", "status", {"status": ("refused", "failed")})],
    ),
    ("filtered_set", "verdicts"): Watched(
        [LARGER, *moves("dropped", 0.1, 0.5), *moves("unsafe", 0.02, 0.25), *moves("faces", 0.1, 0.6)],
        [
            Rate("dropped", "keep", {"keep": False}),
            Rate("unsafe", "nsfw", {"nsfw": (">", 0.5)}),
            Rate("faces", "faces", {"faces": (">", 0)}),
        ],
    ),
    ("copy_embeddings", "copy_embeddings"): VECTORS,
    ("embeddings", "embeddings"): VECTORS,
}
"""By stage and table."""


def batch_check(asset: str, table: str) -> dg.AssetChecksDefinition:
    """The asset check that holds each batch of ``table`` against the ones before it."""
    return versions_check(
        asset,
        f"{table}_batches",
        f"The batch beside up to {TRAILING} earlier ones: {len(WATCHED[asset, table].expectations)} expectations.",
        lambda store, versions: check_batches(store, asset, table, versions),
    )


def check_batches(store: Store, asset: str, table: str, versions: Mapping[str, str]) -> dg.AssetCheckResult:
    """Compare the batches of ``versions`` (partition → manifest hash), each with those that sort before it."""
    watched = WATCHED[asset, table]
    seen = [_compared(store, asset, table, partition, watched) for partition in versions]
    findings = [_finding(expect, list(versions), seen) for expect in watched.expectations]
    outcomes = judge(findings, list(versions), name=f"{asset}.{table}.batches")
    rows = sum(profile.rows for profile, _ in seen)
    page = data_docs.publish(store, asset, f"{table}_batches", versions, rows, outcomes)
    latest = sorted(manifest.partitions(store, asset))[-TRAILING - 1 :]
    _forget(store, asset, table, {_path(made, table) for name in latest if (made := manifest.read(store, asset, name))})
    return to_result(outcomes, rows=rows, page=page)


def _compared(
    store: Store, asset: str, table: str, partition: str, watched: Watched
) -> tuple[BatchProfile, list[BatchProfile]]:
    """A batch's profile, and those of the latest comparable ones before it."""
    own = _manifest(store, asset, partition)
    earlier: list[BatchProfile] = []
    for name in reversed([p for p in manifest.partitions(store, asset) if p < partition]):
        other = _manifest(store, asset, name)
        if len(earlier) < TRAILING and batch_profile.comparable(own, other):
            earlier.append(profile_of(store, other, table, watched))
    return profile_of(store, own, table, watched), earlier


def _manifest(store: Store, asset: str, partition: str) -> Manifest:
    made = manifest.read(store, asset, partition)
    if made is None:
        raise DamagedDataError("the manifest has gone", where=f"{asset}[{partition}]", todo="materialise it again")
    return made


def profile_of(store: Store, made: Manifest, table: str, watched: Watched) -> BatchProfile:
    """The profile of a table, kept by its manifest's hash: a batch is read once and not for each later one."""
    path = _path(made, table)
    if store.exists(path):
        kept = batch_profile.from_json(store.read_bytes(path))
        if set(kept.rates) == {rate.name for rate in watched.rates}:
            return kept
    profile = batch_profile.measure(store, made, table, watched.rates, vectors=watched.vectors)
    store.write_bytes(path, batch_profile.to_json(profile))
    return profile


def _path(made: Manifest, table: str) -> str:
    return f"{PROFILES}/{made.stage}.{table}-{made.hash}.json"


def _forget(store: Store, asset: str, table: str, needed: Collection[str]) -> None:
    """Remove the profiles of a table beyond the newest ``KEPT``, but none that is needed."""
    own = [e for e in store.listing(PROFILES) if e.path.startswith(f"{PROFILES}/{asset}.{table}-")]
    own.sort(key=lambda entry: (entry.modified, entry.path))
    for entry in own[: max(0, len(own) - KEPT)]:
        if entry.path not in needed:
            store.delete(entry.path)


def _finding(
    expect: Expect, batches: Sequence[str], seen: Sequence[tuple[BatchProfile, list[BatchProfile]]]
) -> Finding:
    measure = {
        VOLUME: batch_profile.volume_ratio,
        RATE: lambda batch, earlier: batch_profile.rate_shift(str(expect.settings["column"]), batch, earlier),
        MEAN: batch_profile.mean_shift,
    }[expect.kind]
    high = float(expect.settings["max_ratio" if expect.kind == VOLUME else "max_shift"])
    values = tuple(measure(batch, earlier) for batch, earlier in seen)
    largest = max((v for v in values if v is not None), default=None)
    observed = "no earlier batch to compare with" if largest is None else f"{largest:.4g}"
    told = [
        f"{name}: {_told(expect, batch, earlier)}"
        for name, (batch, earlier), value in zip(batches, seen, values, strict=True)
        if value is not None and value > high
    ]
    return Finding(expect, values, None, high, observed, tuple(told[:5]))


def _told(expect: Expect, batch: BatchProfile, earlier: Sequence[BatchProfile]) -> str:
    """What a batch shows and what the earlier ones did, latest first."""
    if expect.kind == VOLUME:
        return f"{batch.rows} rows, before {', '.join(str(one.rows) for one in earlier)}"
    if expect.kind == RATE:
        name = str(expect.settings["column"])
        shares = [f"{hits / known:.4f}" if known else "–" for hits, known in (b.rates[name] for b in (batch, *earlier))]
        return f"{shares[0]}, before {', '.join(shares[1:])}"
    return f"{batch.rows} vectors, before {', '.join(str(one.rows) for one in earlier)}"
