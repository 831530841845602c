"""Each loss against its definition written out, and against itself spread over two processes."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from dinov2_core.losses.centering import centred_softmax, next_center
from dinov2_core.losses.dino import cross_entropy, dino_loss
from dinov2_core.losses.ibot import ibot_loss
from dinov2_core.losses.koleo import koleo_loss
from dinov2_core.losses.sinkhorn import sinkhorn_knopp


@pytest.fixture(autouse=True)
def _torch_seed() -> None:
    torch.manual_seed(0)


def entropy(p: Tensor, z: Tensor) -> Tensor:
    return -(p * (z / 0.1).log_softmax(-1)).sum(-1).mean()


@pytest.mark.parametrize("shape", [(3, 4, 7), (1, 4, 7)], ids=["each its own target", "targets shared"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_cross_entropy_and_its_gradient_are_those_of_log_softmax(
    shape: tuple[int, ...], dtype: torch.dtype, spread: float
) -> None:
    z = (spread * torch.randn(3, 4, 7)).to(dtype).requires_grad_()
    # The sum of two distributions is a target too.
    p = 2 * torch.randn(shape).softmax(-1)
    weights = torch.linspace(-1, 1, 12).view(3, 4)
    ours = cross_entropy(z, p, 0.1)
    plain = -(p.double() * (z.double() / 0.1).log_softmax(-1)).sum(-1)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), plain, rtol=1e-6, atol=1e-5)
    (one,) = torch.autograd.grad((ours * weights).sum(), z)
    (two,) = torch.autograd.grad((plain * weights).sum(), z)
    assert one.dtype == dtype
    assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_dino_is_the_mean_over_all_pairs_of_crops() -> None:
    glob, local = torch.randn(2, 3, 7), torch.randn(4, 3, 7)
    targets = torch.rand(2, 3, 7).softmax(-1)
    want_local = sum(entropy(targets[t], local[s]) for s in range(4) for t in range(2)) / 10
    want_across = (entropy(targets[0], glob[1]) + entropy(targets[1], glob[0])) / 10
    ours = dino_loss(glob, local, targets)
    assert torch.allclose(ours[0], want_local)  # type: ignore[arg-type]
    assert torch.allclose(ours[1], want_across)


def test_dino_without_local_crops() -> None:
    glob, targets = torch.randn(2, 3, 7), torch.rand(2, 3, 7).softmax(-1)
    local, across = dino_loss(glob, torch.empty(0, 3, 7), targets)
    assert float(local) == 0
    assert torch.allclose(across, (entropy(targets[0], glob[1]) + entropy(targets[1], glob[0])) / 2)


def test_ibot_averages_within_each_crop_and_counts_unmasked_ones() -> None:
    masks = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    z, p = torch.randn(3, 5), torch.rand(3, 5).softmax(-1)
    want = (entropy(p[:2], z[:2]) + entropy(p[2], z[2])) / 4
    assert torch.allclose(ibot_loss(z, p, masks), want)


def test_ibot_without_any_mask_is_zero_and_differentiable() -> None:
    z = torch.empty(0, 5, requires_grad=True)
    loss = ibot_loss(z, torch.empty(0, 5), torch.zeros(4, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss) == 0


def test_koleo_is_the_log_distance_to_the_nearest_neighbour() -> None:
    x = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    distances = torch.cdist(x, x) + 10 * torch.eye(6)
    assert torch.allclose(koleo_loss(x), -distances.min(dim=1).values.log().mean(), atol=1e-5)


def test_koleo_in_groups_is_the_mean_over_the_groups() -> None:
    x = torch.randn(12, 4)
    want = torch.stack([koleo_loss(part) for part in x.split(4)]).mean()
    assert torch.allclose(koleo_loss(x, group=4), want)
    assert torch.equal(koleo_loss(x, group=12), koleo_loss(x))
    assert not torch.allclose(koleo_loss(x, group=4), koleo_loss(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_koleo_of_equal_features_is_finite(dtype: torch.dtype) -> None:
    x = torch.ones(4, 8, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = koleo_loss(x)
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_sinkhorn_uses_all_prototypes_equally() -> None:
    targets = sinkhorn_knopp(torch.randn(64, 8), 0.5, iterations=50)
    assert torch.allclose(targets.sum(1), torch.ones(64))
    assert torch.allclose(targets.sum(0), torch.full((8,), 8.0), rtol=1e-3)


def test_sinkhorn_of_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(16, 8).half()
    assert torch.equal(sinkhorn_knopp(logits, 0.05), sinkhorn_knopp(logits.float(), 0.05))


def test_sinkhorn_of_nothing_is_nothing() -> None:
    assert sinkhorn_knopp(torch.empty(0, 8), 0.05).shape == (0, 8)


def test_center_moves_towards_the_mean() -> None:
    logits, center = torch.randn(10, 4), torch.zeros(1, 1, 4)
    assert torch.allclose(next_center(logits, center)[0, 0], 0.1 * logits.mean(0))
    assert next_center(logits, center).shape == (1, 1, 4)
    shifted = centred_softmax(logits + 3, torch.full((1, 4), 3.0), 0.1)
    assert torch.allclose(shifted, (logits / 0.1).softmax(-1), atol=1e-5)


def _rank(rank: int, port: int, logits: Tensor, cut: int, targets: Tensor, centers: Tensor) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    share = slice(None, cut) if rank == 0 else slice(cut, None)
    targets[share] = sinkhorn_knopp(logits[share], 0.1)
    centers[rank] = next_center(logits[share], torch.zeros(6))
    dist.destroy_process_group()


def test_two_processes_with_unequal_shares_equal_one() -> None:
    logits = torch.randn(9, 6)
    targets, centers = torch.zeros(9, 6).share_memory_(), torch.zeros(2, 6).share_memory_()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(_rank, args=(port, logits, 4, targets, centers), nprocs=2)  # type: ignore[no-untyped-call]
    assert torch.allclose(targets, sinkhorn_knopp(logits, 0.1), atol=1e-6)
    want = next_center(logits, torch.zeros(6))
    assert torch.allclose(centers, want.expand(2, 6), atol=1e-6)
