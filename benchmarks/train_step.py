"""One training step, from an iBOT-style one to ours, one technique added at a time: time, peak memory, model FLOP rate.

The first row runs global and local crops apart, attends by plain products and softmax, and computes every branch of
stochastic depth before it throws results away. Each further row adds one technique and keeps those before it. All rows
compute the same losses on the same batch, which lies on the device already: no data loading. Gradients of a single
process need no all-reduce, so the gain of a 16-bit one is not in the table.

Each row is a process of its own, so that peak memory is its own. ``--lightly PYTHON`` and ``--reference DIR,PYTHON``
add the step of lightly-train and of the public code, each in its own environment, on the same model, crops and batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.techniques import ROWS, prepare, unfused
from dinov2_core.model import attention_backends
from dinov2_core.model.attention import describe
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.vision_transformer import VitConfig
from dinov2_core.train import flops, param_groups
from dinov2_core.train.host_memory import keep_freed_memory
from dinov2_core.train.objective import Batch, Objective
from dinov2_core.train.recipe import CropConfig, LossConfig, Recipe

PEERS = Path(__file__).with_name("peers")
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 64, "depth": 2, "heads": 2},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
}


def recipe_of(options: argparse.Namespace) -> Recipe:
    local = options.local or round(options.image * 3 / 7 / options.patch) * options.patch
    return Recipe(
        model=VitConfig(**SHAPES[options.model], patch=options.patch, image_size=options.image),
        steps=1_000,
        batch=options.batch,
        drop_path=options.drop,
        dino_head=HeadConfig(prototypes=options.prototypes, hidden=options.hidden),
        loss=LossConfig(targets="centering"),
        crops=CropConfig(global_size=options.image, local_size=local, locals=options.locals),
        precision=options.precision,
    )


def batch_of(recipe: Recipe, device: torch.device) -> Batch:
    """Random pixels; half of the global crops masked, by ratios evenly between 0.1 and 0.5."""
    random = torch.Generator().manual_seed(0)
    crops, b = recipe.crops, recipe.batch
    patches = (crops.global_size // recipe.model.patch) ** 2
    masks = torch.zeros(2 * b, patches, dtype=torch.bool)
    for row, ratio in enumerate(torch.linspace(0.1, 0.5, b).tolist()):
        masks[2 * row + row % 2, torch.randperm(patches, generator=random)[: max(1, int(ratio * patches))]] = True
    large = torch.randn(2 * b, 3, crops.global_size, crops.global_size, generator=random)
    small = torch.randn(crops.locals * b, 3, crops.local_size, crops.local_size, generator=random)
    return Batch(large.to(device), small.to(device), masks.to(device), torch.arange(b))


@functools.cache
def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that the device can reach: by its data sheet, or measured."""
    if device.type == "cuda" and dtype != torch.float32:
        known = flops.peak(torch.cuda.get_device_name(device))
        if known is not None:
            return known
    n = 2048
    one = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / min(timed(lambda: one @ one, device) for _ in range(6))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, the device's own included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, in this process."""
    device, recipe = torch.device(options.device), recipe_of(options)
    attention_backends.BACKENDS["unfused"] = attention_backends.Backend(unfused, lambda device, dtype, dim: "")
    torch.manual_seed(0)
    objective = Objective.of(recipe).to(device).train()
    optimizer = param_groups.build_optimizer(objective.student, recipe.model.depth, recipe.optim)
    param_groups.apply_schedule(optimizer, 1e-5, 1e-5, 0.04)
    prepare(row, objective, compiles=options.compile)
    if device.type == "cpu" and list(ROWS).index(row) >= list(ROWS).index("memory"):
        keep_freed_memory()
    batch = batch_of(recipe, device)
    losses: list[Tensor] = []

    def step() -> None:
        total = objective(batch, 0.04)["total"]
        total.backward()
        param_groups.clip_by_module(objective.student, recipe.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.update_average(0.99)
        losses.append(total.detach())

    for _ in range(options.warmup):
        timed(step, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = statistics.median(timed(step, device) for _ in range(options.steps))
    dtype = torch.bfloat16 if objective.precision == torch.bfloat16 else torch.float32
    peak = peak_rate(device, dtype)
    cost = flops.of(recipe)
    skips = list(ROWS).index(row) >= list(ROWS).index("depth")
    counts = {"executed": cost.executed if skips else cost.nominal, "nominal": cost.nominal}
    rates = {name: count * options.batch / seconds / peak for name, count in counts.items()}
    return {
        "row": ROWS[row],
        "seconds": seconds,
        "images_s": options.batch / seconds,
        "memory": peak_memory(device),
        "mfu": rates,
        "peak": peak,
        "attention": describe(objective.student, device, dtype),
        "first_loss": float(losses[0]),
    }


def peak_memory(device: torch.device) -> float:
    """Bytes: what the allocator held at most on a GPU, the process's largest resident size on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def child(command: list[str]) -> dict[str, Any]:
    """Run a process whose last line of output is JSON."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command[:2])} ended with {ended.returncode}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


def peer_arguments(options: argparse.Namespace) -> list[str]:
    """What a peer's script needs to build the same model, crops and batch."""
    recipe = recipe_of(options)
    crops = recipe.crops
    sizes = {
        "model": options.model,
        "patch": options.patch,
        "image": crops.global_size,
        "local": crops.local_size,
        "locals": crops.locals,
        "batch": options.batch,
        "drop": options.drop,
        "prototypes": options.prototypes,
        "hidden": options.hidden,
        "device": options.device,
        "precision": options.precision,
        "steps": options.steps,
        "warmup": options.warmup,
        "threads": options.threads,
    }
    return [f"--{name}={value}" for name, value in sizes.items()]


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row asked for, in order."""
    own = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
    skipped = [] if options.compile else ["compile"]
    skipped += [] if options.device == "cpu" else ["memory"]
    chosen = options.rows.split(",") if options.rows else [r for r in ROWS if r not in skipped]
    found = [measure(row, options) if options.together else child([*own, "--only", row]) for row in chosen]
    if options.lightly:
        found.append(child([options.lightly, str(PEERS / "lightly_step.py"), *peer_arguments(options)]))
    if options.reference:
        folder, python = options.reference.split(",")
        script = [python, str(PEERS / "reference_step.py"), "--code", folder]
        found.append(child([*script, *peer_arguments(options)]))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The Markdown table; ratios are to the first row."""
    first = found[0]
    lines = [
        "| step | s/step | images/s | ratio | peak GiB | ratio | MFU executed | MFU nominal |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def line(name: str, seconds: float, images_s: float, rest: str) -> str:
        return f"| {name} | {seconds:.3f} | {images_s:.1f} | {images_s / first['images_s']:.2f} | {rest} |"

    for one in found:
        memory = f"{one['memory'] / 2**30:.1f} | {one['memory'] / first['memory']:.2f}"
        mfu = one.get("mfu")
        shares = f"{100 * mfu['executed']:.0f} % | {100 * mfu['nominal']:.0f} %" if mfu else "– | –"
        lines.append(line(one["row"], one["seconds"], one["images_s"], f"{memory} | {shares}"))
        if "with_data" in one:
            rate = one["batch"] / one["with_data"]
            lines.append(line(f"{one['row']}, loading included", one["with_data"], rate, "– | – | – | –"))
    return "\n".join(lines)


def heading(options: argparse.Namespace, found: list[dict[str, Any]]) -> str:
    recipe = recipe_of(options)
    crops, device = recipe.crops, torch.device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} threads of a CPU"
    cost = flops.of(recipe)
    sizes = f"2 × {crops.global_size} + {crops.locals} × {crops.local_size}"
    kernels = [one["attention"] for one in found if "attention" in one]
    lines = [
        f"ViT-{options.model}/{options.patch}, {sizes}, batch {options.batch}, drop path {options.drop}",
        f"{options.precision}, {options.prototypes} prototypes; median of {options.steps} steps on {where}",
        f"Python {platform.python_version()}, torch {torch.__version__}; {', then '.join(dict.fromkeys(kernels))}",
        f"tokens an image: {cost.student_tokens} in the student, {cost.teacher_tokens} in the teacher",
        f"TFLOP an image: {cost.executed / 1e12:.3g} executed, {cost.nominal / 1e12:.3g} nominal",
    ]
    return "\n".join(f"- {line}" for line in lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    made.add_argument("--model", choices=SHAPES, default="small")
    made.add_argument("--patch", type=int, default=14)
    made.add_argument("--image", type=int, default=224, help="side of a global crop")
    made.add_argument(
        "--local", type=int, default=0, help="side of a local crop; 0 is 3/7 of the global one's, rounded to patches"
    )
    made.add_argument("--locals", type=int, default=8, help="local crops an image")
    made.add_argument("--batch", type=int, default=64 if cuda else 8)
    made.add_argument("--drop", type=float, default=0.3)
    made.add_argument("--prototypes", type=int, default=65_536)
    made.add_argument("--hidden", type=int, default=2048)
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16" if cuda else "float32")
    made.add_argument("--device", default="cuda" if cuda else "cpu")
    made.add_argument("--threads", type=int, default=os.cpu_count())
    made.add_argument("--steps", type=int, default=20 if cuda else 5)
    made.add_argument("--warmup", type=int, default=5 if cuda else 1)
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, default=cuda)
    made.add_argument("--rows", default="", help=f"some of {','.join(ROWS)}")
    made.add_argument("--only", choices=ROWS, default="", help="measure one row in this process and print JSON")
    made.add_argument("--together", action="store_true", help="all rows in this process; peak memory is then of all")
    made.add_argument("--lightly", metavar="PYTHON", default="", help="the interpreter that has lightly-train")
    made.add_argument("--reference", metavar="DIR,PYTHON", default="", help="a checkout of the public code")
    made.add_argument("--json", metavar="FILE", default="", help="write everything measured there too")
    return made


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    found = rows(options)
    if options.json:
        Path(options.json).write_text(
            json.dumps(
                {"options": vars(options), "recipe": dataclasses.asdict(recipe_of(options)), "rows": found}, indent=1
            )
        )
    print(heading(options, found))
    print()
    print(table(found))


if __name__ == "__main__":
    main()
