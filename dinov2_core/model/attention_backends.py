"""The kernels that attend over a packed sequence, which of them run here, and which is chosen.

===========  ==========================================  =======================================================
name         kernel                                      runs on
===========  ==========================================  =======================================================
varlen       PyTorch's ``varlen_attn``                   CUDA from compute capability 8.0, 16-bit types, d % 8 = 0
xformers     memory-efficient, block-diagonal mask       CUDA with xFormers, any floating type
sdpa         ``scaled_dot_product_attention`` a group    everywhere
reference    one masked softmax over all tokens, float64  everywhere; T² memory, never chosen by itself
===========  ==========================================  =======================================================

``auto`` takes the first that runs. Which kernel attends is a matter of speed only, so it is no part of a model's
configuration: ``attention.use_attention`` sets it on a module. All agree in outputs and gradients, as tests hold.
The layers do not belong here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2_core.errors import ConfigError, UserError, nearest
from dinov2_core.model.packed import Layout, cumulative_lengths

Attend = Callable[[Tensor, Layout], Tensor]
"""``(qkv [T, 3, H, d], layout) → [T, H·d]`` in the same dtype: attention within each sequence of the layout."""

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Backend:
    """One way to attend. ``hindrance(device, dtype, d)`` says why it cannot run there, or nothing if it can."""

    attend: Attend
    hindrance: Callable[[torch.device, torch.dtype, int], str]


def sdpa(qkv: Tensor, layout: Layout) -> Tensor:
    """One ``scaled_dot_product_attention`` a group."""
    heads, dim, dtype = qkv.shape[2], qkv.shape[3], qkv.dtype
    # On CPUs the bfloat16 kernel's backward takes five times as long as the float32 one's; matrix products gain.
    wide = qkv.device.type == "cpu" and dtype == torch.bfloat16
    outputs = []
    qkv = qkv.float() if wide else qkv
    for part, (b, n) in zip(qkv.split(layout.sizes), layout.groups, strict=True):
        q, k, v = part.view(b, n, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        with torch.autocast(qkv.device.type, enabled=torch.is_autocast_enabled(qkv.device.type) and not wide):
            attended = F.scaled_dot_product_attention(q, k, v)
        outputs.append(attended.transpose(1, 2).reshape(b * n, heads * dim).to(dtype))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def varlen(qkv: Tensor, layout: Layout) -> Tensor:
    """One call for all sequences, told apart by their cumulative lengths."""
    from torch.nn.attention import varlen as torch_varlen

    starts = cumulative_lengths(layout.groups, str(qkv.device))
    q, k, v = qkv.unbind(1)
    out = torch_varlen.varlen_attn(q, k, v, starts, starts, layout.longest, layout.longest)
    assert isinstance(out, Tensor)
    return out.flatten(1)


def xformers(qkv: Tensor, layout: Layout) -> Tensor:
    """One call for all sequences, as a batch of one under a block-diagonal mask."""
    from xformers.ops import memory_efficient_attention, unbind

    # Its own unbind gives one gradient tensor where the kernel wrote q, k and v side by side: no copy.
    q, k, v = unbind(qkv[None], 2)
    return memory_efficient_attention(q, k, v, attn_bias=_block_diagonal(layout, str(qkv.device)))[0].flatten(1)


def reference(qkv: Tensor, layout: Layout) -> Tensor:
    """The definition, ``softmax(q kᵀ / √d + mask) v`` in float64 with an explicit block-diagonal mask."""
    lengths = torch.tensor(layout.lengths, device=qkv.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=qkv.device), lengths)
    with torch.autocast(qkv.device.type, enabled=False):
        q, k, v = qkv.double().permute(1, 2, 0, 3).unbind(0)
        scores = (q @ k.transpose(1, 2) * qkv.shape[3] ** -0.5).masked_fill(owner[:, None] != owner, -torch.inf)
        return (scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1).to(qkv.dtype)


@lru_cache(maxsize=64)
def _block_diagonal(layout: Layout, device: str) -> object:
    from xformers.ops.fmha import BlockDiagonalMask

    with torch.inference_mode(False):
        return BlockDiagonalMask.from_seqlens(layout.lengths, device=torch.device(device))


def _no_varlen(device: torch.device, dtype: torch.dtype, dim: int) -> str:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"PyTorch {torch.__version__} has no varlen_attn (2.10 and later do)"
    if device.type != "cuda":
        return f"it needs a CUDA device, not '{device.type}'"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs compute capability 8.0"
    if dtype not in _HALF:
        return f"it takes bfloat16 and float16, not {dtype}"
    return "" if dim % 8 == 0 and dim <= 256 else f"the head width {dim} is not a multiple of 8 up to 256"


def _no_xformers(device: torch.device, dtype: torch.dtype, dim: int) -> str:
    if importlib.util.find_spec("xformers") is None:
        return "xFormers is not installed (the extra 'gpu' brings it)"
    if device.type != "cuda":
        return f"it needs a CUDA device, not '{device.type}'"
    return _refusal_of_xformers(str(device), dtype, dim)


@lru_cache(maxsize=64)
def _refusal_of_xformers(device: str, dtype: torch.dtype, dim: int) -> str:
    """What a small call there ends with: a build for another PyTorch imports well and has no operator."""
    qkv = torch.zeros(16, 3, 1, dim, device=device, dtype=dtype, requires_grad=True)
    try:
        with torch.enable_grad():
            xformers(qkv, Layout(((2, 8),))).sum().backward()
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        return f"it refuses {dtype} and head width {dim} here ({str(error).splitlines()[0]})"
    return ""


BACKENDS = {
    "varlen": Backend(varlen, _no_varlen),
    "xformers": Backend(xformers, _no_xformers),
    "sdpa": Backend(sdpa, lambda device, dtype, dim: ""),
    "reference": Backend(reference, lambda device, dtype, dim: ""),
}
"""In the order of preference."""

AUTO = "auto"


@lru_cache(maxsize=1)
def prepare_for_compiler() -> None:
    """Tell PyTorch's compiler what it need not look into; to be called before a layer is compiled.

    Not decorators: they import the compiler, which takes seconds and packages that a plain run need not have.
    """
    # They depend on shapes and settings alone, which a compiled graph is for.
    for constant in (choose, cumulative_lengths):
        torch.compiler.assume_constant_result(constant)  # type: ignore[no-untyped-call]
    # Its mask is a Python object; what surrounds the call is compiled all the same.
    BACKENDS["xformers"] = replace(BACKENDS["xformers"], attend=torch.compiler.disable(xformers))


def choose(name: str, device: str, dtype: torch.dtype, dim: int) -> str:
    """The back-end that ``name`` means for q, k, v of that kind: ``auto`` is the first that runs.

    Raises:
        UserError: it is known but cannot run there, with the reason.
        ConfigError: there is no such back-end.
    """
    return _choose(name, device, dtype, dim)


@lru_cache(maxsize=256)
def _choose(name: str, device: str, dtype: torch.dtype, dim: int) -> str:
    check_name(name)
    reasons = available(torch.device(device), dtype, dim)
    if name == AUTO:
        return next(one for one, reason in reasons.items() if not reason)
    if reasons[name]:
        raise UserError(
            f"attention back-end '{name}' cannot run: {reasons[name]}", todo=f"use '{AUTO}' or another back-end"
        )
    return name


def check_name(name: str) -> None:
    """Raise a ConfigError with the nearest name unless ``name`` is a back-end or ``auto``."""
    known = (AUTO, *BACKENDS)
    if name not in known:
        raise ConfigError(
            f"no attention back-end '{name}'{nearest(name, known)}", todo=f"back-ends: {', '.join(known)}"
        )


def available(device: torch.device, dtype: torch.dtype, dim: int) -> dict[str, str]:
    """Every back-end with the reason why it cannot run on such q, k, v of head width ``dim``; empty where it can."""
    return {name: backend.hindrance(device, dtype, dim) for name, backend in BACKENDS.items()}
