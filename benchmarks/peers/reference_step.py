"""Seconds a step of the public DINOv2 code, imported from a checkout: its backbone, head and losses, our few calls.

Called by ``train_step.py``; the last line printed is JSON. With xFormers its packed pass and kernels run; without, its
blocks refuse lists, so crop sizes run one after the other, and the row says so. Its sharding wrapper is left out, since
one process has nothing to shard; under autocast the number format is bfloat16 for both.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

import torch
from torch import Tensor, nn


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("patch", "image", "local", "locals", "batch", "prototypes", "hidden", "steps", "warmup", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("code", "model", "device", "precision"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--drop", type=float, required=True)
    return parser.parse_args()


class Reference:
    """Student and teacher of the public code with centring, tied heads and the weights of its default recipe."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        from dinov2.layers import DINOHead, block
        from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
        from dinov2.models import vision_transformer as vits

        build = getattr(vits, f"vit_{options.model}")
        shape = {"patch_size": options.patch, "img_size": options.image, "init_values": 1e-5, "block_chunks": 0}
        self.packs = bool(block.XFORMERS_AVAILABLE) and device.type == "cuda"
        networks = []
        for rate in (options.drop, 0.0):
            backbone = build(**shape, drop_path_rate=rate, drop_path_uniform=True)
            head = DINOHead(backbone.embed_dim, options.prototypes, hidden_dim=options.hidden, bottleneck_dim=256)
            networks.append(nn.ModuleDict({"backbone": backbone, "head": head}).to(device))
        self.student, self.teacher = networks
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.locals, self.batch = options.locals, options.batch
        self.image_loss = DINOLoss(options.prototypes).to(device)
        self.patch_loss = iBOTPatchLoss(options.prototypes).to(device)
        self.spread = KoLeoLoss()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5)

    @torch.no_grad()
    def targets(self, crops: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.teacher["backbone"](crops, is_training=True)
        first, second = seen["x_norm_clstoken"].chunk(2)
        cls = torch.cat([second, first])
        rows = torch.cat([cls, seen["x_norm_patchtokens"].flatten(0, 1)[masked]])
        logits = self.teacher["head"](rows)
        of_images = self.image_loss.softmax_center_teacher(logits[: len(cls)], 0.04)
        of_patches = self.patch_loss.softmax_center_teacher(logits[None, len(cls) :], 0.04)[0]
        self.image_loss.update_center(logits[: len(cls)])
        self.patch_loss.update_center(logits[None, len(cls) :])
        return of_images.unflatten(0, (2, -1)), of_patches

    def loss(self, large: Tensor, small: Tensor, masks: Tensor, masked: Tensor, weights: Tensor) -> Tensor:
        images, patches = self.targets(large, masked)
        run = self.student["backbone"]
        if self.packs:
            one, two = run([large, small], masks=[masks, None], is_training=True)
        else:
            one, two = run(large, masks=masks, is_training=True), run(small, is_training=True)
        cls, local = one["x_norm_clstoken"], two["x_norm_clstoken"]
        rows = torch.cat([cls, local, one["x_norm_patchtokens"].flatten(0, 1)[masked]])
        across, locally, at_patches = self.student["head"](rows).split([len(cls), len(local), len(masked)])
        pairs = 2 * self.locals + 2
        total = self.image_loss(locally.chunk(self.locals), images) / pairs
        total = total + 2 * self.image_loss([across], [images.flatten(0, 1)]) / pairs
        total = total + 0.1 * sum(self.spread(part) for part in cls.chunk(2))
        return total + self.patch_loss.forward_masked(
            at_patches, patches, student_masks_flat=masks, n_masked_patches=len(masked), masks_weight=weights
        )

    def update(self) -> None:
        for module in self.student.values():
            nn.utils.clip_grad_norm_(module.parameters(), 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            old, new = list(self.teacher.parameters()), list(self.student.parameters())
            torch._foreach_mul_(old, 0.99)
            torch._foreach_add_(old, new, alpha=0.01)


def main() -> None:
    options = parse()
    if options.device == "cpu":
        os.environ["XFORMERS_DISABLED"] = "1"
    sys.path.insert(0, options.code)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    reference = Reference(options, device)
    patches = (options.image // options.patch) ** 2
    masks = torch.zeros(2 * options.batch, patches, dtype=torch.bool)
    for row, ratio in enumerate(torch.linspace(0.1, 0.5, options.batch).tolist()):
        masks[2 * row + row % 2, torch.randperm(patches)[: max(1, int(ratio * patches))]] = True
    masked = masks.flatten().nonzero().flatten()
    weights = (1 / masks.sum(-1).clamp(min=1))[:, None].expand_as(masks)[masks]
    large = torch.randn(2 * options.batch, 3, options.image, options.image)
    small = torch.randn(options.locals * options.batch, 3, options.local, options.local)
    data = [x.to(device) for x in (large, small, masks, masked, weights)]

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = reference.loss(*data)
        loss.backward()
        reference.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    for _ in range(options.warmup):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = statistics.median(step() for _ in range(options.steps))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    kind = "packed, xFormers" if reference.packs else "no xFormers: crop sizes apart"
    print(
        json.dumps(
            {
                "row": f"public code ({kind})",
                "seconds": seconds,
                "images_s": options.batch / seconds,
                "memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident,
            }
        )
    )


if __name__ == "__main__":
    main()
