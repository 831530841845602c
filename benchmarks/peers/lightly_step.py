"""Runs in lightly-train's own environment: seconds a step of its DINOv2 on random pictures, by its public interface.

Called by ``train_step.py``; the last line printed is JSON. PyTorch Lightning's profiler tells the step from the loading
of data, which runs in the same process (no workers), so both can be stated.
"""

import argparse
import json
import resource
import statistics
import tempfile
from pathlib import Path

import lightly_train
import numpy as np
import torch
from PIL import Image
from pytorch_lightning.profilers import SimpleProfiler

NAMES = {"small": "s", "base": "b", "large": "l"}
STEP, LOADING = "run_training_batch", "train_dataloader_next"


def pictures(folder: Path, count: int, side: int) -> None:
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("patch", "image", "local", "locals", "batch", "prototypes", "hidden", "steps", "warmup", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("model", "device", "precision"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--drop", type=float, required=True)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    kept = []
    make = SimpleProfiler.__init__

    def remember(self: SimpleProfiler, *args: object, **kwargs: object) -> None:
        make(self, *args, **kwargs)
        kept.append(self)

    # A profiler object is no argument that ``pretrain`` takes; its name is, and this is how to get the object back.
    SimpleProfiler.__init__ = remember
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "pictures"
        data.mkdir()
        pictures(data, 4 * options.batch, options.image)
        lightly_train.pretrain(
            out=str(Path(scratch) / "out"),
            data=str(data),
            model=f"dinov2/vit{NAMES[options.model]}{options.patch}-notpretrained",
            model_args={"drop_path_rate": options.drop},
            method="dinov2",
            method_args={"output_dim": options.prototypes, "hidden_dim": options.hidden},
            batch_size=options.batch,
            num_workers=0,
            accelerator="gpu" if options.device.startswith("cuda") else "cpu",
            precision="bf16-mixed" if options.precision == "bfloat16" else "32-true",
            transform_args={
                "image_size": (options.image, options.image),
                "local_view": {"num_views": options.locals, "view_size": (options.local, options.local)},
            },
            trainer_args={"max_steps": options.warmup + options.steps, "profiler": "simple"},
            loggers={"tensorboard": None},
            callbacks={"model_checkpoint": None, "model_export": None},
        )
    durations = kept[-1].recorded_durations
    steps = durations[STEP][options.warmup :]
    loading = next(times for name, times in durations.items() if name.endswith(LOADING))[options.warmup :]
    seconds = statistics.median(steps)
    cuda = options.device.startswith("cuda")
    print(
        json.dumps(
            {
                "row": f"lightly-train {lightly_train.__version__}",
                "seconds": seconds,
                "images_s": options.batch / seconds,
                "with_data": seconds + statistics.median(loading),
                "batch": options.batch,
                "memory": torch.cuda.max_memory_allocated()
                if cuda
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
