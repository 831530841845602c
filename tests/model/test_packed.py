"""Packed attention: every back-end that runs here equals the definition and separate forwards; choosing one."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dinov2_core.errors import ConfigError, UserError
from dinov2_core.model import attention_backends as backends
from dinov2_core.model.attention import Attention, describe, use_attention
from dinov2_core.model.packed import Layout, cumulative_lengths, pack

LAYOUT = Layout(((3, 9), (5, 4), (1, 1)))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def packed_qkv(layout: Layout = LAYOUT, *, dtype: torch.dtype = torch.float32, heads: int = 2, dim: int = 16) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(sum(layout.sizes), 3, heads, dim, device=DEVICE).to(dtype)


def output_and_gradient(attend: backends.Attend, qkv: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    qkv = qkv.clone().requires_grad_()
    out = attend(qkv, layout)
    out.backward(torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out))
    assert qkv.grad is not None
    return out.detach(), qkv.grad


def error(one: Tensor, two: Tensor) -> float:
    return float((one.double() - two.double()).norm() / two.double().norm())


def separate_forwards(qkv: Tensor, layout: Layout) -> Tensor:
    """One attention call a sequence, nothing packed."""
    outputs = []
    for part in qkv.split(layout.lengths):
        q, k, v = part.permute(1, 2, 0, 3).unbind(0)
        outputs.append(F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).flatten(1))
    return torch.cat(outputs)


def kernel_by_sequence(q: Tensor, k: Tensor, v: Tensor, starts: list[int]) -> Tensor:
    """What a variable-length kernel computes: ``[T, H, d]`` thrice → ``[T, H, d]``."""
    parts = []
    for first, last in itertools.pairwise(starts):
        one = [x[first:last].transpose(0, 1)[None] for x in (q, k, v)]
        parts.append(F.scaled_dot_product_attention(*one)[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that need a GPU, replaced by slow ones with the same signatures; the adapters around them are ours."""
    from torch.nn.attention import varlen

    def varlen_attn(
        q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, longest_q: int, longest_k: int
    ) -> Tensor:
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert longest_q == longest_k == int(starts_q.diff().max())
        assert all(x.stride(-1) == 1 for x in (q, k, v)), "the kernel wants heads contiguous"
        return kernel_by_sequence(q, k, v, starts_q.tolist())

    class BlockDiagonalMask:
        def __init__(self, lengths: list[int]) -> None:
            self.starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]

        @classmethod
        def from_seqlens(cls, lengths: list[int], *, device: torch.device) -> BlockDiagonalMask:
            assert isinstance(device, torch.device)
            return cls(lengths)

    def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, *, attn_bias: BlockDiagonalMask) -> Tensor:
        assert q.dim() == 4, "a block-diagonal mask wants a batch of one"
        assert len(q) == 1
        return kernel_by_sequence(q[0], k[0], v[0], attn_bias.starts)[None]

    ops, fmha, top = (types.ModuleType(name) for name in ("xformers.ops", "xformers.ops.fmha", "xformers"))
    ops.memory_efficient_attention, ops.unbind = memory_efficient_attention, torch.unbind  # type: ignore[attr-defined]
    fmha.BlockDiagonalMask = BlockDiagonalMask  # type: ignore[attr-defined]
    top.__spec__ = ModuleSpec("xformers", None)
    for module in (ops, fmha, top):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    backends._block_diagonal.cache_clear()
    yield
    backends._block_diagonal.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", backends.BACKENDS)
def test_every_backend_that_runs_here_equals_the_definition(name: str, dtype: torch.dtype) -> None:
    reason = backends.available(DEVICE, dtype, 16)[name]
    if reason:
        # Not a skip: the refusal itself is what must hold here.
        with pytest.raises(UserError, match="cannot run"):
            backends.choose(name, str(DEVICE), dtype, 16)
        return
    qkv = packed_qkv(dtype=dtype)
    out, gradient = output_and_gradient(backends.BACKENDS[name].attend, qkv, LAYOUT)
    true_out, true_gradient = output_and_gradient(backends.reference, qkv.double(), LAYOUT)
    assert out.dtype == gradient.dtype == dtype
    assert error(out, true_out) < TOLERANCE[dtype]
    assert error(gradient, true_gradient) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["varlen", "xformers", "sdpa"])
@pytest.mark.usefixtures("emulated")
def test_every_adapter_equals_separate_forwards(name: str) -> None:
    attend = backends.BACKENDS[name].attend
    qkv = packed_qkv()
    for one, two in zip(
        output_and_gradient(attend, qkv, LAYOUT), output_and_gradient(separate_forwards, qkv, LAYOUT), strict=True
    ):
        assert error(one, two) < 1e-6


def test_the_definition_equals_separate_forwards() -> None:
    qkv = packed_qkv().double()
    assert error(backends.reference(qkv, LAYOUT), separate_forwards(qkv, LAYOUT)) < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 7)), min_size=1, max_size=4),
    heads=st.integers(1, 3),
    dim=st.sampled_from([1, 4, 5, 8]),
)
def test_any_layout_gives_the_same(groups: list[tuple[int, int]], heads: int, dim: int) -> None:
    layout = Layout(tuple(groups))
    qkv = packed_qkv(layout, heads=heads, dim=dim).cpu()
    assert torch.allclose(backends.sdpa(qkv, layout), backends.reference(qkv, layout), atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "reference"])
def test_attention_stays_within_each_sequence(name: str) -> None:
    attend = backends.BACKENDS[name].attend
    qkv = packed_qkv()
    before = attend(qkv, LAYOUT)
    qkv[:9] = torch.randn_like(qkv[:9])  # the first sequence
    after = attend(qkv, LAYOUT)
    assert torch.equal(before[9:], after[9:])
    assert not torch.allclose(before[:9], after[:9])


def test_pack_lays_groups_one_after_the_other() -> None:
    groups = [torch.randn(3, 9, 4), torch.randn(5, 4, 4), torch.randn(1, 1, 4)]
    tokens, layout = pack(groups)
    assert layout == LAYOUT
    assert layout.lengths == [9, 9, 9, 4, 4, 4, 4, 4, 1]
    assert layout.longest == 9
    assert all(torch.equal(one, two) for one, two in zip(layout.split(tokens), groups, strict=True))


def test_starts_are_made_once_a_layout_and_serve_a_backward_pass() -> None:
    with torch.inference_mode():
        first = cumulative_lengths(LAYOUT.groups, "cpu")
    assert first.tolist() == [0, 9, 18, 27, 31, 35, 39, 43, 47, 48]
    assert first.dtype == torch.int32
    assert cumulative_lengths(LAYOUT.groups, "cpu") is first
    # A tensor of inference mode could not be saved for the backward pass of later training.
    assert not first.is_inference()


def test_the_choice_falls_on_what_runs() -> None:
    assert backends.choose("auto", "cpu", torch.float32, 64) == "sdpa"
    assert backends.choose("reference", "cpu", torch.float32, 64) == "reference"
    reasons = backends.available(torch.device("cpu"), torch.float32, 64)
    assert list(reasons) == ["varlen", "xformers", "sdpa", "reference"]
    assert "CUDA" in reasons["varlen"]
    assert not reasons["sdpa"]


def test_the_first_of_the_list_that_runs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = backends.Backend(backends.sdpa, lambda device, dtype, dim: "" if dtype == torch.bfloat16 else "no")
    monkeypatch.setitem(backends.BACKENDS, "varlen", runs)
    backends._choose.cache_clear()
    assert backends.choose("auto", "cpu", torch.bfloat16, 64) == "varlen"
    assert backends.choose("auto", "cpu", torch.float32, 64) == "sdpa"
    backends._choose.cache_clear()


def test_an_unknown_or_unavailable_name_says_why() -> None:
    model = nn.ModuleList([Attention(16, 2)])
    with pytest.raises(ConfigError, match="did you mean 'xformers'"):
        use_attention(model, "xformer")
    if DEVICE.type == "cpu":
        use_attention(model, "varlen")
        with pytest.raises(UserError, match="'varlen' cannot run: it needs a CUDA device, not 'cpu'"):
            model[0](torch.randn(48, 16), LAYOUT)


def test_the_backend_is_set_on_every_layer_and_said() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([Attention(16, 2), Attention(16, 2)]))
    assert describe(model, torch.device("cpu"), torch.float32) == "attention: sdpa (float32 on cpu)"
    use_attention(model, "reference")
    assert describe(model, torch.device("cpu"), torch.bfloat16) == "attention: reference (bfloat16 on cpu)"
    assert not model.state_dict().keys() & {"attention_backend"}


def test_a_layer_gives_the_same_by_any_backend() -> None:
    layer = Attention(32, 2).to(DEVICE)
    x = torch.randn(48, 32, device=DEVICE)
    outputs = []
    for name, reason in backends.available(DEVICE, torch.float32, 16).items():
        if not reason:
            use_attention(layer, name)
            outputs.append(layer(x, LAYOUT))
    assert len(outputs) >= 2
    assert all(error(one, outputs[-1]) < 1e-5 for one in outputs)


def test_bfloat16_attention_on_the_cpu_is_close_to_float32_under_autocast_too() -> None:
    qkv = packed_qkv().cpu()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = backends.sdpa(qkv.bfloat16(), LAYOUT)
    assert narrow.dtype == torch.bfloat16
    assert torch.allclose(backends.sdpa(qkv, LAYOUT), narrow.float(), atol=0.03)


@pytest.mark.parametrize("name", ["sdpa", "varlen"])
@pytest.mark.usefixtures("emulated")
def test_a_compiled_layer_is_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choice and cumulative lengths are constants to the compiler: no graph break, no copy a call."""
    from torch.nn.attention import varlen

    @torch.library.custom_op("test_packed::varlen", mutates_args={})
    def opaque(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
        return kernel_by_sequence(q, k, v, starts.tolist())

    opaque.register_fake(lambda q, k, v, starts: torch.empty_like(q).contiguous())
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, k, v, starts, *rest: opaque(q, k, v, starts))
    monkeypatch.setitem(backends.BACKENDS, "varlen", backends.Backend(backends.varlen, lambda device, dtype, dim: ""))
    backends._choose.cache_clear()
    backends.prepare_for_compiler()
    torch._dynamo.reset()
    layer = Attention(32, 2)
    use_attention(layer, name)
    x = torch.randn(48, 32)
    with torch.no_grad():
        compiled: Callable[..., Tensor] = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)
        assert torch.allclose(compiled(x, LAYOUT), layer(x, LAYOUT), atol=1e-5)
    backends._choose.cache_clear()
