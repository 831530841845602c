"""A block: efficient stochastic depth equals the plain one in expectation; LayerScale in the weight; compiling."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from dinov2_core.model.block import Block
from dinov2_core.model.layer_scale import LayerScale, scaled_linear
from dinov2_core.model.packed import Layout, pack
from dinov2_core.model.stochastic_depth import Draw, Kept, add_scaled, draw, kept_count
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

LAYOUT = Layout(((4, 5), (3, 2)))
CPU = torch.device("cpu")


def block(ffn: str = "mlp", layer_scale: float | None = 0.5) -> Block:
    torch.manual_seed(0)
    return Block(16, 2, ffn=ffn, hidden=32, layer_scale=layer_scale).double()


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(26, 16, dtype=torch.float64)


def subset(chosen: tuple[tuple[int, ...], ...]) -> Kept:
    """The subset that keeps the given sequences of each group of LAYOUT."""
    start, index, scales = 0, [], []
    for (b, n), sequences in zip(LAYOUT.groups, chosen, strict=True):
        index += [start + s * n + t for s in sequences for t in range(n)]
        scales += [b / len(sequences)] * (len(sequences) * n)
        start += b * n
    groups = tuple((len(s), n) for (_, n), s in zip(LAYOUT.groups, chosen, strict=True))
    return Kept(torch.tensor(index), Layout(groups), torch.tensor(scales)[:, None])


@pytest.mark.parametrize("branch", ["attend", "feed"])
def test_the_mean_over_all_subsets_is_the_whole_branch(branch: str) -> None:
    """Exact, not sampled: 2 of 4 and 1 of 3 sequences, all 18 cases, outputs and gradients."""
    layer, x = block(), tokens().requires_grad_()

    def of(rows: Tensor, layout: Layout) -> Tensor:
        return layer.attend(rows, layout) if branch == "attend" else layer.feed(rows)

    cases = list(itertools.product(itertools.combinations(range(4), 2), itertools.combinations(range(3), 1)))
    kept = [subset(case) for case in cases]
    mean = torch.stack([add_scaled(x, of(x[k.rows], k.layout), k) for k in kept]).mean(0)
    plain = x + of(x, LAYOUT)
    assert torch.allclose(mean, plain, atol=1e-6)
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    one, two = (torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (mean, plain))
    assert torch.allclose(one, two, atol=1e-6)


def test_every_subset_is_drawn_equally_often_and_independently_for_branches_and_groups() -> None:
    torch.manual_seed(0)
    count = 18_000
    drawn = draw(LAYOUT, 0.5, 2 * count, CPU)
    assert drawn.layout.groups == ((2, 5), (1, 2))
    first = drawn.rows[:, 0:10:5] // 5
    second = (drawn.rows[:, 10] - 20) // 2
    code = (first[:, 0] * 4 + first[:, 1]) * 3 + second
    # 6 subsets of one group times 3 of the other.
    _, frequency = code.unique(return_counts=True)
    assert len(frequency) == 18
    expected = 2 * count / 18
    assert float(((frequency - expected) ** 2 / expected).sum()) < 40.8  # chi-square, 17 degrees, p = 0.001
    # A block's two branches are neighbouring draws: the pair of equal codes is as likely as any.
    same = int((code[0::2] == code[1::2]).sum())
    assert abs(same - count / 18) < 4 * (count / 18) ** 0.5


def test_a_draw_keeps_whole_sequences_and_scales_each_group_by_its_own_share() -> None:
    drawn = draw(Layout(((8, 5), (3, 2))), 0.4, 1, CPU)
    index, kept, scales = drawn.kept(0)
    assert kept.groups == ((4, 5), (1, 2))
    assert len(index) == len(scales) == 22
    assert index.unique().numel() == 22
    first = index[:20].view(4, 5)
    assert torch.equal(first - first[:, :1], torch.arange(5).expand(4, 5))
    assert set((first[:, 0] % 5).tolist()) == {0}
    assert scales.unique().tolist() == [2.0, 3.0]


@pytest.mark.parametrize(("rate", "count"), [(0.0, 10), (0.3, 7), (0.35, 6), (0.9, 1), (0.99, 1)])
def test_the_size_of_a_subset(rate: float, count: int) -> None:
    assert kept_count(10, rate) == count


def test_two_branches_of_a_network_see_different_subsets() -> None:
    torch.manual_seed(0)
    drawn = draw(Layout(((64, 3),)), 0.5, 4, CPU)
    assert len({tuple(row) for row in drawn.rows.tolist()}) == 4


def test_what_is_dropped_passes_unchanged() -> None:
    layer, x = block(), tokens()
    kept = subset(((1, 3), (0,)))
    out = layer(x, LAYOUT, (kept, kept))
    changed = (out != x).any(dim=1).nonzero().flatten()
    assert torch.equal(changed, kept.rows)


def test_dropping_nothing_is_the_plain_block() -> None:
    layer, x = block(), tokens()
    everything = draw(LAYOUT, 0.0, 2, CPU)
    assert torch.allclose(layer(x, LAYOUT, (everything.kept(0), everything.kept(1))), layer(x, LAYOUT), atol=1e-12)


def test_a_network_in_training_drops_and_is_reproducible() -> None:
    config = VitConfig(dim=16, depth=3, heads=2, patch=4, image_size=16, layer_scale=0.5)
    model = VisionTransformer(config, drop_path=0.5).train()
    crops = [torch.randn(4, 3, 16, 16), torch.randn(6, 3, 8, 8)]

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.forward_list(crops)[0].cls

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.equal(model.eval().forward_list(crops)[0].cls, run(3))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_scale_in_the_weight_equals_layer_scale_on_the_tokens(bias: bool) -> None:
    torch.manual_seed(0)
    layer, scale = nn.Linear(6, 4, bias=bias).double(), LayerScale(4, 1.0).double()
    nn.init.normal_(scale.gamma)
    x = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    parameters = [x, *layer.parameters(), scale.gamma]
    weights = torch.randn(9, 4, dtype=torch.float64)
    results = []
    for out in (scaled_linear(layer, x, scale), scale(layer(x))):
        results.append([out, *torch.autograd.grad((out * weights).sum(), parameters)])
    assert all(torch.allclose(one, two, atol=1e-12) for one, two in zip(*results, strict=True))


def test_a_tiny_layer_scale_survives_float16() -> None:
    layer, scale = nn.Linear(64, 64), LayerScale(64, 1e-5)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    x = torch.randn(32, 64)
    with torch.autocast("cpu", dtype=torch.float16):
        out = scaled_linear(layer, x, scale).float()
    true = scale(layer(x))
    assert float((out - true).norm() / true.norm()) < 2e-3


@pytest.mark.parametrize("drop", [False, True])
def test_the_residual_stream_keeps_its_dtype_under_autocast(drop: bool) -> None:
    layer, x = block().float(), tokens().float()
    kept = (subset(((1, 3), (0,))),) * 2 if drop else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, LAYOUT, kept)
    assert out.dtype == torch.float32
    assert float((out - layer(x, LAYOUT, kept)).norm() / (out - x).norm()) < 0.05


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("drop", [False, True])
def test_a_compiled_block_is_one_graph_for_all_draws(ffn: str, drop: bool) -> None:
    torch._dynamo.reset()
    layer = block(ffn)
    x, layout = pack([torch.randn(4, 5, 16, dtype=torch.float64), torch.randn(3, 2, 16, dtype=torch.float64)])
    compiled = block(ffn)
    compiled.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    torch._dynamo.utils.counters.clear()

    def pair(drawn: Draw) -> tuple[Kept, Kept]:
        return drawn.kept(0), drawn.kept(1)

    for _ in range(3):
        kept = pair(draw(layout, 0.5, 2, CPU)) if drop else None
        assert torch.allclose(compiled(x, layout, kept), layer(x, layout, kept), atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
