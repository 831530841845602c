"""Fine-tuning: backbone and a linear head trained together, at 224 or 448 pixels, whole or by low-rank products.

The paper takes DeiT III's recipe and reports no learning rate (section 7.1, reference 114). Kept of it: AdamW, layer
decay, stochastic depth, warm-up and cosine, smoothed labels, an average of weights that is scored. Left out: mixing
images, and its three colour augmentations.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov2_core.errors import UserError
from dinov2_core.evaluate import lora
from dinov2_core.evaluate.augment_crops import augmented
from dinov2_core.evaluate.classification_scores import classification_score
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Split
from dinov2_core.evaluate.knn_protocol import one_label
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import squares
from dinov2_core.evaluate.protocol import Context, Protocol, Scores
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.progress import track
from dinov2_core.train.param_groups import multipliers
from dinov2_core.train.schedules import CosineSchedule


@dataclass(frozen=True)
class FinetuneOptions:
    """``size``: input side, 0 = the model's own (paper: 224 and 448). ``ema``: decay of the averaged weights a step.

    ``lora_rank``: 0 trains every weight; else products of that rank, ``lora_alpha / lora_rank`` of them.
    """

    size: int = 0
    epochs: int = 20
    batch: int = 64
    lr: float = 3e-4
    head_lr: float = 3e-3
    weight_decay: float = 0.02
    layer_decay: float = 0.75
    drop_path: float = 0.1
    warmup: float = 0.1
    smoothing: float = 0.1
    clip: float = 1.0
    ema: float = 0.999
    lora_rank: int = 0
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema {self.ema} is outside 0 to 1")
        if min(self.epochs, self.batch) < 1:
            raise ValueError("epochs and batch are at least 1")


class Classifier(nn.Module):
    """A backbone and a linear head on class token and mean patch, ``[B, 3, S, S]`` → ``[B, K]``."""

    def __init__(self, backbone: VisionTransformer, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2 * backbone.config.dim, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        logits: Tensor = self.head(torch.cat([features.cls, features.patches.mean(dim=1)], dim=1))
        return logits


def classifier(model: EvalModel, classes: int, options: FinetuneOptions, *, seed: int = 0) -> Classifier:
    """A copy of the backbone under a new head, as ``options`` wants it trained; ``model`` stays as it is."""
    torch.manual_seed(seed)
    backbone = copy.deepcopy(model.backbone)
    backbone.drop_path = options.drop_path
    backbone.requires_grad_(True)
    if options.lora_rank:
        lora.adapt(backbone, rank=options.lora_rank, alpha=options.lora_alpha)
    return Classifier(backbone, classes).to(next(backbone.parameters()).device)


def optimizer(made: Classifier, options: FinetuneOptions) -> torch.optim.AdamW:
    """AdamW; a group's rate is ``share`` of the schedule, falling by ``layer_decay`` a block towards the input."""
    groups = []
    for name, parameter in made.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = made.backbone.config.depth
        factors = multipliers(name, depth=depth, layer_decay=options.layer_decay, patch_embed_lr=1.0)
        share = options.head_lr / options.lr if name.startswith("head.") else factors.lr
        decay = options.weight_decay * factors.weight_decay
        groups.append({"params": [parameter], "share": share, "weight_decay": decay, "name": name})
    return torch.optim.AdamW(groups, lr=options.lr)


def train(model: EvalModel, data: LabelledSet, options: FinetuneOptions, context: Context) -> Classifier:
    """The averaged classifier, trained on all of train.

    Raises:
        UserError: the loss is not finite.
    """
    one_label(data)
    made = classifier(model, len(data.classes), options, seed=context.seed)
    average = copy.deepcopy(made).requires_grad_(False).eval()
    steps = options.epochs * max(1, len(data.train) // options.batch)
    schedule = CosineSchedule(options.lr, options.lr * 1e-2, steps, warmup=int(options.warmup * steps))
    optim = optimizer(made, options)
    device = next(made.parameters()).device
    labels, generator = torch.from_numpy(data.train.labels), torch.Generator().manual_seed(context.seed)
    loss_of = nn.CrossEntropyLoss(label_smoothing=options.smoothing)
    made.train()
    order = torch.empty(0, dtype=torch.int64)
    for step in track(range(steps), f"fine-tuning on {data.name}", steps):
        if not len(order):
            order = torch.randperm(len(data.train), generator=generator)
        rows, order = order[: options.batch], order[options.batch :]
        images = augmented([data.train.pictures[i] for i in rows], model.preprocessing.size, generator)
        loss = loss_of(made(model.preprocessing.normalize(images).to(device)), labels[rows].to(device))
        if not torch.isfinite(loss):
            raise UserError(f"the loss is not finite at step {step}", where=data.name, todo="lower lr")
        optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(made.parameters(), options.clip)
        for group in optim.param_groups:
            group["lr"] = schedule(step) * group["share"]
        optim.step()
        # A young average forgets its start quickly.
        follow(average, made, min(options.ema, (1 + step) / (10 + step)))
    lora.merge(average.backbone)
    return average


@torch.no_grad()
def follow(average: nn.Module, made: nn.Module, decay: float) -> None:
    """``average ← decay · average + (1 − decay) · made``, in place."""
    for one, two in zip(average.parameters(), made.parameters(), strict=True):
        one.lerp_(two, 1 - decay)


@torch.inference_mode()
def predict(made: Classifier, model: EvalModel, split: Split, batch: int) -> Tensor:
    """``[N]`` classes."""
    made.eval()
    device, parts = next(made.parameters()).device, []
    for start in range(0, len(split), batch):
        images = model.preprocessing.normalize(squares(model, split.pictures[start : start + batch]))
        parts.append(made(images.to(device)).argmax(dim=1).cpu())
    return torch.cat(parts)


def run_finetune(model: EvalModel, data: LabelledSet, options: FinetuneOptions, context: Context) -> Scores:
    """The averaged weights after the last epoch; nothing is chosen on test."""
    size = options.size or model.preprocessing.size
    if size % model.backbone.config.patch:
        todo = "set size to a multiple"
        raise UserError(
            f"{size} pixels are not a multiple of {model.backbone.config.patch}", where="finetune", todo=todo
        )
    sized = model.with_size(size)
    made = train(sized, data, options, context)
    predicted = predict(made, sized, data.test, context.batch).numpy()
    kind = f"low rank {options.lora_rank}" if options.lora_rank else "all weights"
    value = classification_score(predicted, data.test.labels, data.metric, note=f"{kind}, {size} pixels, last epoch")
    return Scores("finetune", data.name, (value,), {"size": size, "lora_rank": options.lora_rank})


FINETUNE = Protocol("finetune", "classification", "labelled", FinetuneOptions, run_finetune)
