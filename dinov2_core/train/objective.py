"""The objective: student and teacher with their heads, and the loss of one batch (paper, section 4).

The same class serves pretraining (the teacher is the student's average) and distillation (the teacher is frozen, the
average is what ships). Data, schedules, optimiser and loop do not belong here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov2_core.losses.centering import centred_softmax, next_center
from dinov2_core.losses.dino import dino_loss
from dinov2_core.losses.distributed import gather_rows
from dinov2_core.losses.ibot import ibot_loss
from dinov2_core.losses.koleo import koleo_loss
from dinov2_core.losses.sinkhorn import sinkhorn_knopp
from dinov2_core.model.heads import Head, HeadConfig
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from dinov2_core.train.param_groups import local
from dinov2_core.train.precision import compute_dtype
from dinov2_core.train.recipe import LossConfig, Recipe


@dataclass(frozen=True)
class Batch:
    """One step's input of B images. The first B global crops are crop 1 of each image, the rest crop 2."""

    global_crops: Tensor
    """``[2B, C, H, W]``, normalised"""
    local_crops: Tensor
    """``[n_local · B, C, h, w]``, crop by crop"""
    masks: Tensor
    """``[2B, N]`` bool: the patches that enter the patch-level term"""
    ids: Tensor
    """``[B]`` int64: positions in the data, for messages"""

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``; the ids stay."""
        global_crops, local_crops, masks = (x.to(device, non_blocking=True) for x in self._tensors())
        return Batch(global_crops, local_crops, masks, self.ids)

    def split(self, parts: int) -> list[Batch]:
        """``parts`` batches of B / parts images that follow each other; ``parts`` divides B."""
        images = len(self.global_crops) // 2
        if images % parts:
            raise ValueError(f"a batch of {images} images cannot be split into {parts} equal parts")
        by_crop = [x.unflatten(0, (-1, images)) if len(x) else x for x in self._tensors()]
        share = images // parts
        pieces = []
        for i in range(parts):
            one = slice(i * share, (i + 1) * share)
            global_crops, local_crops, masks = (x[:, one].flatten(0, 1) if len(x) else x for x in by_crop)
            pieces.append(Batch(global_crops, local_crops, masks, self.ids[one]))
        return pieces

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.global_crops, self.local_crops, self.masks


@dataclass(frozen=True)
class Targets:
    """What the teacher says: ``cls [2, B, K]`` for crops 1 and 2, ``patches [M, K]`` at the masked ones."""

    cls: Tensor
    patches: Tensor


@dataclass(frozen=True)
class Losses:
    """What a backward pass leaves: the terms (0-d), the targets ``[2, B, K]`` and class tokens ``[2, B, D]``."""

    terms: dict[str, Tensor]
    targets: Tensor
    cls: Tensor


def build_network(model: VitConfig, dino: HeadConfig, ibot: HeadConfig | None, drop_path: float = 0.0) -> nn.ModuleDict:
    """``{"backbone", "dino_head", "ibot_head"}``, the last absent where the heads are tied."""
    network = nn.ModuleDict({"backbone": VisionTransformer(model, drop_path=drop_path)})
    network["dino_head"] = Head(model.dim, dino)
    if ibot is not None:
        network["ibot_head"] = Head(model.dim, ibot)
    return network


class Objective(nn.Module):
    """Student, teacher and average, and the loss that trains the student."""

    dino_center: Tensor
    ibot_center: Tensor

    def __init__(
        self,
        student: nn.ModuleDict,
        loss: LossConfig,
        *,
        teacher: nn.ModuleDict | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """``teacher`` None makes the student's average the teacher; otherwise it is frozen and the student unmasked."""
        super().__init__()
        self.loss, self.precision = loss, precision
        self.distils = teacher is not None
        self.student = student
        self.average = copy.deepcopy(student).requires_grad_(False).eval()
        # A registered second name would put the teacher into the state dict twice.
        self._frozen = [teacher.requires_grad_(False).eval()] if teacher is not None else []
        self.register_buffer("dino_center", torch.zeros(1, _image_head(self.teacher).prototypes))
        self.register_buffer("ibot_center", torch.zeros(1, 1, _patch_head(self.teacher).prototypes))

    @classmethod
    def of(cls, recipe: Recipe, *, teacher: nn.ModuleDict | None = None) -> Objective:
        """The objective of a recipe, with a freshly initialised student (draws from the global generator)."""
        student = build_network(recipe.model, recipe.dino_head, recipe.ibot_head, recipe.drop_path)
        return cls(student, recipe.loss, teacher=teacher, precision=compute_dtype(recipe.precision))

    def train(self, mode: bool = True) -> Objective:
        super().train(mode)
        # The average never drops a path.
        self.average.eval()
        return self

    @property
    def teacher(self) -> nn.ModuleDict:
        return self._frozen[0] if self._frozen else self.average

    @torch.no_grad()
    def targets(self, batch: Batch, temperature: float) -> Targets:
        """The teacher's targets; where they are centred, the centers move on (this step still uses the old ones)."""
        return self.targets_of([batch], temperature)[0]

    @torch.no_grad()
    def targets_of(self, parts: Sequence[Batch], temperature: float) -> list[Targets]:
        """Targets of each part of a batch, as if it had come in one piece: the samples of all parts and processes."""
        images: list[Tensor] = []
        patches: list[Tensor] = []
        for part in parts:
            with self._autocast(part.global_crops):
                (seen,) = _backbone(self.teacher).forward_used([part.global_crops], None, [part.masks])
                image, patch = _logits(self.teacher, seen.cls, seen.patches)
                images.append(image)
                patches.append(patch)
        cls, masked = torch.cat(images), torch.cat(patches)
        if self.loss.targets == "sinkhorn":
            one, two = sinkhorn_knopp(cls, temperature), sinkhorn_knopp(masked, temperature)
        else:
            one = centred_softmax(cls, self.dino_center, temperature)
            two = centred_softmax(masked, self.ibot_center[0], temperature)
            self.dino_center = next_center(cls, self.dino_center, momentum=self.loss.center_momentum)
            self.ibot_center = next_center(masked, self.ibot_center, momentum=self.loss.center_momentum)
        by_image = one.split([len(x) for x in images])
        by_patch = two.split([len(x) for x in patches])
        return [Targets(a.unflatten(0, (2, -1)), b) for a, b in zip(by_image, by_patch, strict=True)]

    def forward(self, batch: Batch, temperature: float) -> dict[str, Tensor]:
        """The loss terms (0-d, unweighted; KoLeo summed over its crops) and their weighted sum ``total``."""
        losses, features = self.crossing(batch, self.targets(batch, temperature))
        koleo = self.koleo(features)
        total = losses["total"] + self.loss.koleo * koleo
        return {**losses, "total": total, "koleo": koleo}

    def backward(self, batch: Batch, temperature: float, *, parts: int = 1, scale: float = 1.0) -> Losses:
        """The losses of the batch, their gradients times ``scale`` added to the student's, in ``parts`` passes.

        The gradients are those of one pass: targets come from all parts before the first is trained on, and KoLeo's
        gradient at the class tokens of all of them is taken first and handed to each (arXiv 2101.06983). That costs a
        second forward pass of the global crops.
        """
        if parts == 1:
            targets = self.targets(batch, temperature)
            losses, features = self.crossing(batch, targets)
            koleo = self.koleo(features)
            (scale * (losses["total"] + self.loss.koleo * koleo)).backward()  # type: ignore[no-untyped-call]
            losses["total"] = losses["total"] + self.loss.koleo * koleo
            found = {k: v.detach() for k, v in (losses | {"koleo": koleo}).items()}
            return Losses(found, targets.cls, features.detach())
        pieces = batch.split(parts)
        all_targets = self.targets_of(pieces, temperature)
        state = _random_state()
        with torch.no_grad():
            early = torch.cat([self._class_tokens(piece, state, i) for i, piece in enumerate(pieces)], dim=1)
        early.requires_grad_()
        koleo = self.koleo(early)
        (pull,) = torch.autograd.grad(self.loss.koleo * koleo, early)
        sums: dict[str, Tensor] = {}
        for i, (piece, targets, at) in enumerate(zip(pieces, all_targets, pull.chunk(parts, dim=1), strict=True)):
            _seed_part(state, i)
            losses, features = self.crossing(piece, targets)
            (scale * (losses["total"] / parts + (features * at).sum())).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / parts
        sums["koleo"] = koleo.detach()
        sums["total"] = sums["total"] + self.loss.koleo * sums["koleo"]
        return Losses(sums, torch.cat([t.cls for t in all_targets], dim=1), early.detach())

    def crossing(self, batch: Batch, targets: Targets) -> tuple[dict[str, Tensor], Tensor]:
        """The cross-entropy terms with their weighted sum ``total``, and the class tokens ``[2, B, D]`` for KoLeo."""
        crops = [batch.global_crops, batch.local_crops] if len(batch.local_crops) else [batch.global_crops]
        masks = [None if self.distils else batch.masks, None][: len(crops)]
        with self._autocast(batch.global_crops):
            features = _backbone(self.student).forward_used(crops, masks, [batch.masks, None][: len(crops)])
            cls = torch.cat([f.cls for f in features])
            logits, patches = _logits(self.student, cls, features[0].patches)
        images = len(batch.global_crops) // 2
        crop_logits = logits.unflatten(0, (-1, images))
        tau = self.loss.student_temperature
        small, across = dino_loss(crop_logits[:2], crop_logits[2:], targets.cls, temperature=tau)
        ibot = ibot_loss(patches, targets.patches, batch.masks, temperature=tau)
        total = self.loss.dino * (small + across) + self.loss.ibot * ibot
        losses = {"total": total, "dino_local": small, "dino_global": across, "ibot": ibot}
        return losses, features[0].cls.float().unflatten(0, (2, images))

    def koleo(self, features: Tensor) -> Tensor:
        """KoLeo over the class tokens of all processes, summed over its crops; ``features [2, B, D]`` of this one."""
        crops = [gather_rows(crop) for crop in (features if self.loss.koleo_crops == "both" else features[:1])]
        group = min(self.loss.koleo_group, len(crops[0]))
        return torch.stack([koleo_loss(crop, group=group) for crop in crops]).sum()

    def _class_tokens(self, part: Batch, state: int, index: int) -> Tensor:
        # Stochastic depth draws for the global crops first, so the same seed drops the same without the local ones.
        _seed_part(state, index)
        with self._autocast(part.global_crops):
            seen = _backbone(self.student).forward_used([part.global_crops], [None if self.distils else part.masks])
        return seen[0].cls.float().unflatten(0, (2, -1))

    @torch.no_grad()
    def update_average(self, momentum: float) -> None:
        """``average ← m · average + (1 - m) · student``, over backbone and heads."""
        average = [local(p.detach()) for p in self.average.parameters()]
        student = [local(p.detach()) for p in self.student.parameters()]
        torch._foreach_lerp_(average, student, 1.0 - momentum)

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, dtype=self.precision, enabled=self.precision != torch.float32)


def _random_state() -> int:
    """A seed drawn from the host's generator, which the trainer sets to a function of the step."""
    return int(torch.randint(0, 2**31, ()))


def _seed_part(state: int, part: int) -> None:
    torch.manual_seed(state + part)


def _backbone(network: nn.ModuleDict) -> VisionTransformer:
    backbone = network["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone


def _image_head(network: nn.ModuleDict) -> Head:
    head = network["dino_head"]
    assert isinstance(head, Head)
    return head


def _logits(network: nn.ModuleDict, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Prototype logits of class tokens ``[B, D]`` and patches ``[M, D]``; in one pass where the heads are tied."""
    one, two = _image_head(network), _patch_head(network)
    if one is not two:
        return one(cls), two(patches)
    logits = one(torch.cat([cls, patches]))
    image, patch = logits.split([len(cls), len(patches)])
    return image, patch


def _patch_head(network: nn.ModuleDict) -> Head:
    head = network["ibot_head"] if "ibot_head" in network else network["dino_head"]
    assert isinstance(head, Head)
    return head
