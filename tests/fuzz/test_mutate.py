"""Damage of every kind ends in a verdict; see ``mutate`` for the long run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.curation.folders import reading
from dinov2_core.images.decode import Decoded, Refused, decode
from tests.fuzz import mutate
from tests.pictures import encoded, field, part

SOURCES = mutate.originals()


def test_some_hundred_damaged_images_each_get_a_verdict() -> None:
    verdicts = mutate.run(300, model=str(part("sscd_distilled")))
    assert verdicts.total() == 300
    assert {"", "truncated", "damaged"} <= set(verdicts)


@pytest.mark.slow
def test_ten_thousand_damaged_images_each_get_a_verdict() -> None:
    models = {name: str(part(name)) for name in ("sscd_distilled", "nsfw", "centerface")}
    verdicts = mutate.run(
        int(os.environ.get("DINOV2_FUZZ", "10000")),
        model=models["sscd_distilled"],
        nsfw=models["nsfw"],
        faces=models["centerface"],
    )
    assert verdicts[""] > 100


@given(st.binary(max_size=400), st.sampled_from(SOURCES), st.integers(0, 3000))
@settings(max_examples=150, deadline=None)
def test_any_bytes_decode_or_have_a_reason(noise: bytes, source: bytes, at: int) -> None:
    for data in (noise, source[:at] + noise, noise + source, source[:at] + noise + source[at:]):
        found = decode(data, max_pixels=mutate.MAX_PIXELS)
        assert isinstance(found, Decoded) or (isinstance(found, Refused) and found.reason)


@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand_files_is_listed_once_and_in_seconds(tmp_path: Path) -> None:
    data = encoded(field(0))
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for number in range(5000):
            (tmp_path / str(folder) / f"{number}.png").touch()
    (tmp_path / "0/0.png").write_bytes(data)
    started = time.monotonic()
    groups, digest = reading.groups(str(tmp_path), 250)
    assert sum(len(g) for g in groups) == 100_000
    assert max(len(g) for g in groups) == 250
    first = list(reading.read(str(tmp_path), groups[0]))
    assert first[0].data == data
    assert {len(item.data) for item in first[1:]} == {0}
    assert time.monotonic() - started < 60
    assert reading.groups(str(tmp_path), 250)[1] == digest
