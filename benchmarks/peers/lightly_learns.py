"""Runs in lightly-train's own environment: its DINOv2 on a folder for some minutes, then embeddings of two folders.

Called by ``learns.py``. Only the public interface is used, with the smallest model that its DINOv2 offers, cut to 32
pixels by patches of 4. Crops, heads, teacher and warm-up are set as in our recipe ``demo``: with its defaults (65,536
prototypes, 12,500 steps of warm-up) it would take half a minute a step here and never leave the warm-up.
"""

import argparse
import json
import os
from pathlib import Path

import lightly_train
import numpy as np
import torch

SIZES = {
    "image_size": (24, 24),
    "random_resize": {"min_scale": 0.5, "max_scale": 1.0},
    "local_view": {"num_views": 4, "view_size": (12, 12), "random_resize": {"min_scale": 0.2, "max_scale": 0.6}},
}
METHOD = {
    "output_dim": 256,
    "hidden_dim": 512,
    "dino_bottleneck_dim": 64,
    "ibot_bottleneck_dim": 64,
    "warmup_steps": 50,
    "student_freeze_last_layer_steps": 20,
    "momentum_start": 0.97,
    "teacher_temp_end": 0.04,
    "teacher_temp_warmup_steps": 100,
    "patch_embed_lr_multiplier": 1.0,
    "weight_decay_end": 0.1,
}


def processor_seconds() -> float:
    """Of this process and of the data workers that have ended."""
    return sum(os.times()[:4])


def pretrain(root: Path, out: str, steps: int, batch: int, patch: int) -> float:
    started = processor_seconds()
    lightly_train.pretrain(
        out=str(root / out),
        data=str(root / "train"),
        model="dinov2/vits14-notpretrained",
        model_args={"patch_size": patch, "img_size": 32},
        method="dinov2",
        method_args=METHOD,
        batch_size=batch,
        num_workers=1,
        accelerator="cpu",
        precision="32-true",
        overwrite=True,
        transform_args=SIZES,
        trainer_args={"max_steps": steps},
    )
    return processor_seconds() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    short, longer = (pretrain(options.root, "probe", n, options.batch, options.patch) for n in (2, 8))
    steps = max(8, int((0.95 * options.minutes * 60 - short) / ((longer - short) / 6)))
    seconds = pretrain(options.root, "run", steps, options.batch, options.patch)
    for name in ("gallery", "test"):
        target = options.root / f"{name}.pt"
        lightly_train.embed(
            out=str(target),
            data=str(options.root / name),
            checkpoint=str(options.root / "run" / "checkpoints" / "last.ckpt"),
            format="torch",
            image_size=(32, 32),
            accelerator="cpu",
            overwrite=True,
        )
        saved = torch.load(target)
        order = np.argsort([Path(n).name for n in saved["filenames"]])
        np.save(options.root / f"{name}.npy", saved["embeddings"].float().numpy()[order])
    result = {"minutes": seconds / 60, "images": steps * options.batch, "images_s": steps * options.batch / seconds}
    (options.root / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
