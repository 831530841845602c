"""Packed attention: every back-end that runs here against the definition in float64, and its time.

Ends with an error if one disagrees in output or gradient, or if one that was named cannot run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from dinov2_core.model.attention_backends import BACKENDS, Attend, available, choose, reference
from dinov2_core.model.packed import Layout

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def output_and_gradient(attend: Attend, qkv: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    qkv = qkv.clone().requires_grad_()
    out = attend(qkv, layout)
    out.backward(torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out))
    assert qkv.grad is not None
    return out.detach(), qkv.grad


def distance(one: Tensor, two: Tensor) -> float:
    return float((one.double() - two.double()).norm() / two.double().norm())


def seconds(attend: Attend, qkv: Tensor, layout: Layout, repeats: int) -> float:
    """Median of forward and backward."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        output_and_gradient(attend, qkv, layout)
        if qkv.is_cuda:
            torch.cuda.synchronize(qkv.device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8, help="images: two sequences of 257 tokens and eight of 50 each")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--need", default="sdpa", help="back-ends that must run, by comma")
    options = parser.parse_args()
    device = torch.device(options.device)
    large = Layout(((2 * options.batch, 257), (8 * options.batch, 50)))
    # The definition needs T² memory: equality is checked on few sequences, time is taken on all.
    small = Layout(((2, 257), (5, 50), (1, 1)))
    print("| back-end | dtype | output error | gradient error | ms, forward and backward |\n|---|---|---|---|---|")
    ran = set()
    for dtype, limit in TOLERANCE.items():
        torch.manual_seed(0)
        few = torch.randn(sum(small.sizes), 3, options.heads, 64, device=device).to(dtype)
        many = torch.randn(sum(large.sizes), 3, options.heads, 64, device=device).to(dtype)
        truth = output_and_gradient(reference, few.double(), small)
        for name, reason in available(device, dtype, 64).items():
            if name == "reference":
                continue
            if reason:
                print(f"| {name} | {dtype} | – | – | {reason} |")
                continue
            ran.add(name)
            attend = BACKENDS[name].attend
            errors = [distance(*pair) for pair in zip(output_and_gradient(attend, few, small), truth, strict=True)]
            took = 1e3 * seconds(attend, many, large, options.repeats)
            print(f"| {name} | {dtype} | {errors[0]:.1e} | {errors[1]:.1e} | {took:.2f} |")
            assert max(errors) < limit, f"{name} in {dtype} is off by {max(errors):.1e}"
        print(f"\n{dtype}: auto takes {choose('auto', str(device), dtype, 64)}\n")
    missing = set(options.need.split(",")) - ran
    assert not missing, f"did not run: {', '.join(sorted(missing))}"


if __name__ == "__main__":
    main()
