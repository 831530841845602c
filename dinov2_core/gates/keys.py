"""Keys of many rows as fingerprints: which repeat, which are not in another table.

Where a fingerprint is found to repeat, the keys themselves are looked at again, so that no two keys are called equal
that are not. Which tables refer to which does not belong here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dinov2_core.gates import reading
from dinov2_core.gates.blocks import Block
from dinov2_core.gates.fingerprints import Fingerprints, Memory
from dinov2_core.gates.reading import Part
from dinov2_core.storage import Store

PROVED = 1000
"""The most repeated fingerprints whose keys are looked at again; beyond it the rest is taken for repeated."""


def of(block: Block, columns: Sequence[str], where: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """``(fingerprints of the rows that have a key and are meant, their rows)``: int64 [M] each."""
    prints, valid = block.fingerprints(columns)
    rows = np.flatnonzero(valid & block.mask(where) if where else valid)
    return prints[rows], rows


def read(
    store: Store,
    parts: Sequence[Part],
    columns: Sequence[str],
    where: Mapping[str, Any] | None = None,
    memory: Memory | None = None,
) -> Fingerprints:
    """The fingerprints of a table's keys, with the numbers of their rows in the table."""
    found, before = Fingerprints(memory or Memory(), numbered=True), 0
    for _, block in reading.blocks(store, [part.record for part in parts], [*columns, *(where or {})]):
        prints, rows = of(block, columns, where)
        found.add(prints, before + rows)
        before += len(block)
    return found


def outside(own: Fingerprints, known: Fingerprints) -> Iterator[np.ndarray]:
    """What of ``own`` is not among ``known``, a range at a time: as ``Fingerprints.ranges``."""
    for ours, theirs in zip(own.ranges(), known.ranges(), strict=True):
        yield ours[~inside(ours[:, 0], theirs[:, 0])]


def each_once(prints: np.ndarray) -> np.ndarray:
    """The distinct ones, sorted. Sorts ``prints`` in place; ``np.unique`` hashes, which takes five times as long."""
    prints.sort()
    first = np.ones(len(prints), bool)
    np.not_equal(prints[1:], prints[:-1], out=first[1:])
    return prints[first]


def inside(prints: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of ``prints`` are among ``known`` (sorted): bool [N]."""
    if not len(known):
        return np.zeros(len(prints), bool)
    # Sorted queries walk through the known ones in order, which caches like.
    order = np.argsort(prints)
    at = np.minimum(np.searchsorted(known, prints[order]), len(known) - 1)
    found = np.empty(len(prints), bool)
    found[order] = known[at] == prints[order]
    return found


def repeated(prints: np.ndarray) -> tuple[np.ndarray, int]:
    """``(fingerprints that occur more than once, sorted; rows that have one of them)``. Sorts ``prints`` in place."""
    prints.sort()
    same = prints[1:] == prints[:-1]
    either = np.zeros(len(prints), bool)
    either[1:] |= same
    either[:-1] |= same
    return each_once(prints[1:][same]), int(either.sum())


def first(numbers: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` smallest of some numbers, sorted."""
    return np.sort(np.partition(numbers, count)[:count] if len(numbers) > count else numbers)


def rows_at(
    store: Store, parts: Sequence[Part], columns: Sequence[str], numbers: np.ndarray
) -> Iterator[tuple[Block, int]]:
    """The rows of a table with these numbers (sorted): ``(block, row in it)``."""
    before, left = 0, numbers
    blocks = reading.blocks(store, [part.record for part in parts], columns) if len(numbers) else iter(())
    for _, block in blocks:
        here = left[left < before + len(block)]
        yield from ((block, int(number) - before) for number in here)
        before, left = before + len(block), left[len(here) :]
        if not len(left):
            return


def rows_of(
    store: Store,
    parts: Sequence[Part],
    columns: Sequence[str],
    where: Mapping[str, Any] | None,
    wanted: np.ndarray,
) -> Iterator[tuple[Any, ...]]:
    """The keys whose fingerprints are ``wanted`` (sorted), in order of the table."""
    for _, block in reading.blocks(store, [part.record for part in parts], [*columns, *(where or {})]):
        prints, rows = of(block, columns, where)
        for row in rows[inside(prints, wanted)]:
            yield tuple(block.rows.column(c)[int(row)].as_py() for c in columns)


def proved(
    store: Store, parts: Sequence[Part], columns: Sequence[str], where: Mapping[str, Any] | None, suspects: np.ndarray
) -> tuple[int, list[tuple[Any, ...]]]:
    """``(rows whose fingerprint repeats although their key does not, the repeated keys)`` among some suspects."""
    seen = Counter(rows_of(store, parts, columns, where, suspects[:PROVED]))
    return sum(1 for count in seen.values() if count == 1), [key for key, count in seen.items() if count > 1]
