"""Connected components of a graph whose edges come in blocks, by a union-find on arrays.

Which edges count, and which image of a component stays, does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dinov2_core.curation.scratch import Scratch

_NARROW = 2**31
_BLOCK = 1 << 20
"""Edges merged, and nodes labelled, at once: working memory is some tens of megabytes."""


class UnionFind:
    """Nodes 0 … N−1; memory for one integer a node (4 bytes under 2^31 nodes), whatever the number of edges.

    Edges are merged a whole array at a time: every root hooks below the smallest root that an edge ties it to, paths
    are halved, and this repeats until no edge joins two trees (Shiloach and Vishkin, 1982). The result does not depend
    on the order of the edges.
    """

    def __init__(self, nodes: int, scratch: Scratch | None = None) -> None:
        """``scratch``: where the integers lie; in memory without one."""
        kind = np.int32 if nodes < _NARROW else np.int64
        self._parent = scratch.empty(nodes, kind) if scratch else np.empty(nodes, kind)
        for start in range(0, nodes, _BLOCK):
            self._parent[start : start + _BLOCK] = np.arange(start, min(start + _BLOCK, nodes))

    def union(self, a: np.ndarray, b: np.ndarray) -> None:
        """Merge the sets of ``a[i]`` and ``b[i]``, int [E] each, for every i."""
        for start in range(0, len(a), _BLOCK):
            self._union(a[start : start + _BLOCK], b[start : start + _BLOCK])

    def _union(self, a: np.ndarray, b: np.ndarray) -> None:
        while len(a):
            roots_a, roots_b = self.find(a), self.find(b)
            apart = roots_a != roots_b
            if not apart.any():
                return
            a, b = roots_a[apart], roots_b[apart]
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))

    def find(self, nodes: np.ndarray) -> np.ndarray:
        """The smallest node of the set of each of ``nodes``: integers of the same shape."""
        roots = self._parent[nodes]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[nodes] = roots
        return roots

    def labels(self) -> np.ndarray:
        """For every node the smallest node of its component: int [N], 4 or 8 bytes each. Nothing may follow."""
        for start in range(0, len(self._parent), _BLOCK):
            self.find(np.arange(start, min(start + _BLOCK, len(self._parent))))
        return self._parent


def connected_components(
    nodes: int, blocks: Iterable[tuple[np.ndarray, np.ndarray] | np.ndarray], scratch: Scratch | None = None
) -> np.ndarray:
    """Labels of ``nodes`` nodes under the edges in ``blocks`` (pairs of int [E]): see ``UnionFind``."""
    sets = UnionFind(nodes, scratch)
    for a, b in blocks:
        sets.union(a, b)
    return sets.labels()
