"""Ids as numbers: equal to sorting and looking up the texts; arrays in files equal arrays in memory."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.curation.image_index import ImageIndex, to_bytes, to_text
from dinov2_core.curation.scratch import Scratch
from dinov2_core.errors import DamagedDataError


def names(numbers: list[int]) -> list[str]:
    return [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]


@given(st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=5), st.sampled_from([0, 10**6]))
@settings(max_examples=20, deadline=None)
def test_positions_are_those_of_the_sorted_texts(batches: list[list[int]], memory: int) -> None:
    texts = sorted({name for batch in batches for name in names(batch)})
    with Scratch(memory) as scratch:
        blocks = [to_bytes(pa.array(names(batch), pa.string())) for batch in batches]
        index = ImageIndex.build(blocks, sum(len(b) for b in batches), scratch)
        assert index.text(slice(None)).to_pylist() == texts
        asked = names(list(range(50)))
        found = index.find(to_bytes(pa.array(asked)))
        assert found.tolist() == [texts.index(name) if name in texts else -1 for name in asked]
        assert (scratch.on_disk > 0) == (memory == 0 and len(texts) > 0)


def test_ids_that_begin_alike_are_told_apart() -> None:
    texts = sorted("ab" * 16 + name[:32] for name in names(list(range(30))))
    with Scratch() as scratch:
        index = ImageIndex.build([to_bytes(pa.array(texts[::2]))], 15, scratch)
        assert index.find(to_bytes(pa.array(texts))).tolist() == [i // 2 if i % 2 == 0 else -1 for i in range(30)]


def test_texts_come_back_from_a_slice_of_a_column() -> None:
    column = pa.array(names(list(range(9))))
    assert to_text(to_bytes(column.slice(3, 4))).to_pylist() == column.to_pylist()[3:7]


@pytest.mark.parametrize("bad", [["x"], ["g" * 64], [None], ["ab" * 31 + "a", "a" * 65]])
def test_what_is_no_id_is_refused(bad: list[str | None]) -> None:
    with pytest.raises(DamagedDataError, match="no sha256"):
        to_bytes(pa.array(bad, pa.string()))


def test_arrays_go_to_files_once_memory_is_out_and_end_with_the_block() -> None:
    with Scratch(100) as scratch:
        small, large = scratch.full(10, np.int64, 7), scratch.full((4, 10), np.int64, 8)
        assert not isinstance(small, np.memmap)
        assert isinstance(large, np.memmap)
        assert (large == 8).all()
        path = large.filename
    assert path is not None
    assert not path.exists()


def test_what_is_set_aside_is_not_given_away() -> None:
    with Scratch(200, working=50) as scratch:
        assert not scratch.room(151)
        assert scratch.room(100)
        assert not isinstance(scratch.empty(50, np.uint8), np.memmap)
        assert isinstance(scratch.empty(1, np.uint8), np.memmap)
        with scratch.lend() as own:
            assert isinstance(own.empty(1, np.uint8), np.memmap)
    assert not Scratch(10, working=50).room(1)
