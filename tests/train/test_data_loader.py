"""Batches from stored images: the same for any number of workers and processes, whole whatever the files, closed."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from dinov2_core.errors import UserError
from dinov2_core.train import recipes
from dinov2_core.train.loader import LoaderConfig, StreamBatches
from dinov2_core.train.objective import Batch
from dinov2_core.train.recipe import Recipe, override


def jpeg(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((40 + seed % 7, 50 - seed % 5), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclasses.dataclass
class Images:
    """Images in a list; some do not decode."""

    data: list[bytes]

    def __len__(self) -> int:
        return len(self.data)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        return [self.data[i] for i in indices]

    def name(self, index: int) -> str:
        return f"image {index}"


GOOD = Images([jpeg(i) for i in range(20)])
BROKEN = Images([b"" if i in (3, 4) else data[:300] if i == 9 else data for i, data in enumerate(GOOD.data)])


def recipe(**changes: object) -> Recipe:
    return override(recipes.demo(), {"batch": 8, "steps": 6, **changes})


def same(one: Batch, two: Batch) -> bool:
    names = ("global_crops", "local_crops", "masks", "ids")
    return all(torch.equal(getattr(one, n), getattr(two, n)) for n in names)


def inline(source: Images = GOOD, **options: int) -> StreamBatches:
    return StreamBatches(source, recipe(), LoaderConfig(workers=0, chunk=3), **options)


@pytest.fixture(scope="module")
def worked() -> Iterator[StreamBatches]:
    batches = StreamBatches(BROKEN, recipe(), LoaderConfig(workers=2, chunk=5))
    yield batches
    batches.close()


def test_shapes_are_the_recipes() -> None:
    batch = inline()(0)
    assert batch.global_crops.shape == (16, 3, 24, 24)
    assert batch.local_crops.shape == (32, 3, 12, 12)
    assert batch.masks.shape == (16, 36)
    assert batch.global_crops.dtype == torch.float32
    assert batch.ids.tolist() == inline().sampler.indices(0).tolist()


def test_workers_make_what_one_process_makes(worked: StreamBatches) -> None:
    plain = inline(BROKEN)
    for step in (2, 3, 0):  # on, and back
        assert same(worked(step), plain(step))
    assert worked.refused == {i: r for i, r in plain.refused.items() if i in worked.refused}


def test_closing_ends_the_workers(worked: StreamBatches) -> None:
    others = set(multiprocessing.active_children())  # of tests before this one
    worked.close()
    others &= set(multiprocessing.active_children())
    worked(1)
    assert len(set(multiprocessing.active_children()) - others) >= 2
    worked.close()
    assert set(multiprocessing.active_children()) <= others
    worked(1)  # and they start again when asked


def test_processes_share_the_batch_that_one_would_see() -> None:
    whole = inline()(1)
    for world in (2, 4):
        parts = [inline(rank=r, world=world)(1) for r in range(world)]
        share = 8 // world
        assert torch.equal(torch.cat([p.ids for p in parts]), whole.ids)
        for rank, part in enumerate(parts):
            own = slice(rank * share, (rank + 1) * share)
            assert torch.equal(part.global_crops, whole.global_crops.unflatten(0, (2, 8))[:, own].flatten(0, 1))
            assert torch.equal(part.local_crops, whole.local_crops.unflatten(0, (4, 8))[:, own].flatten(0, 1))
            assert torch.equal(part.masks, whole.masks.unflatten(0, (2, 8))[:, own].flatten(0, 1))


def test_an_image_that_does_not_decode_is_replaced_by_the_next_that_does_and_named() -> None:
    batches = inline(BROKEN)
    seen = np.concatenate([batches(step).ids.numpy() for step in range(5)])
    wanted = np.concatenate([batches.sampler.indices(step) for step in range(5)])
    after = {3: 5, 4: 5, 9: 10}
    assert seen.tolist() == [after.get(int(i), int(i)) for i in wanted]
    assert batches.refused == {3: "empty", 4: "empty", 9: "truncated"}
    assert batches.names([5]) == ["image 5"]


def test_a_set_of_nothing_but_broken_images_ends_with_a_reason() -> None:
    with pytest.raises(UserError, match="100 images in a row do not decode, the last: not an image"):
        inline(Images([b"text"] * 20))(0)


def test_squashed_images_cropped_in_whole_batches_show_the_same_parts() -> None:
    plain = {"crops.jitter_probability": 0.0, "crops.gray": 0.0, "crops.blur": [0.0, 0.0, 0.0], "crops.solarize": 0.0}
    one = StreamBatches(GOOD, recipe(**plain), LoaderConfig(workers=0))(0)
    two = StreamBatches(GOOD, recipe(**plain, **{"crops.squash": 64}), LoaderConfig(workers=0))(0)
    assert torch.equal(one.ids, two.ids)
    for a, b in zip(one.global_crops, two.global_crops, strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.9
