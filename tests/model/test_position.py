"""Positions by matrix products are those by torch's resize, in every flavour, at every grid."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.model.position import interpolate, interpolate_by_matrices

SIDES = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, st.sampled_from([(0.1, False), (0.0, True), (0.0, False)]))
def test_matrices_equal_the_resize(grid: int, rows: int, columns: int, flavour: tuple[float, bool]) -> None:
    torch.manual_seed(0)
    stored = torch.randn(1, 1 + grid * grid, 3)
    offset, antialias = flavour
    plain = interpolate(stored, rows, columns, square=rows == columns, offset=offset, antialias=antialias)
    index = torch.arange(rows), torch.arange(columns)
    assert torch.allclose(interpolate_by_matrices(stored, *index, offset=offset, antialias=antialias), plain, atol=5e-5)


def test_at_the_stored_grid_they_are_the_stored_ones() -> None:
    stored = torch.randn(1, 17, 8)
    index = torch.arange(4)
    made = interpolate_by_matrices(stored, index, index, offset=0.1, antialias=False)
    assert torch.equal(made, stored)
