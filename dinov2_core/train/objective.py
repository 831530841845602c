"""The objective: student and teacher with their heads, and the loss of one batch (paper, section 4).

The same class serves pretraining (the teacher is the student's average) and distillation (the teacher is frozen, the
average is what ships). Data, schedules, optimiser and loop do not belong here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov2_core.losses.centering import centred_softmax, next_center
from dinov2_core.losses.dino import dino_loss
from dinov2_core.losses.ibot import ibot_loss
from dinov2_core.losses.koleo import koleo_loss
from dinov2_core.losses.sinkhorn import sinkhorn_knopp
from dinov2_core.model.heads import Head, HeadConfig
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
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


@dataclass(frozen=True)
class Targets:
    """What the teacher says: ``cls [2, B, K]`` for crops 1 and 2, ``patches [M, K]`` at the masked ones."""

    cls: Tensor
    patches: Tensor


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
        with self._autocast(batch.global_crops):
            seen = _backbone(self.teacher)(batch.global_crops)
            cls = _image_head(self.teacher)(seen.cls)
            patches = _patch_head(self.teacher)(seen.patches[batch.masks])
        if self.loss.targets == "sinkhorn":
            one, two = sinkhorn_knopp(cls, temperature), sinkhorn_knopp(patches, temperature)
        else:
            one = centred_softmax(cls, self.dino_center, temperature)
            two = centred_softmax(patches, self.ibot_center[0], temperature)
            self.dino_center = next_center(cls, self.dino_center, momentum=self.loss.center_momentum)
            self.ibot_center = next_center(patches, self.ibot_center, momentum=self.loss.center_momentum)
        return Targets(one.unflatten(0, (2, -1)), two)

    def forward(self, batch: Batch, temperature: float) -> dict[str, Tensor]:
        """The loss terms (0-d, unweighted; KoLeo summed over its crops) and their weighted sum ``total``."""
        targets = self.targets(batch, temperature)
        crops = [batch.global_crops, batch.local_crops] if len(batch.local_crops) else [batch.global_crops]
        masks = [None if self.distils else batch.masks, None][: len(crops)]
        with self._autocast(batch.global_crops):
            features = _backbone(self.student).forward_list(crops, masks)
            # All class tokens through the head in one pass.
            logits = _image_head(self.student)(torch.cat([f.cls for f in features]))
            patches = _patch_head(self.student)(features[0].patches[batch.masks])
        images = len(batch.global_crops) // 2
        crop_logits = logits.unflatten(0, (-1, images))
        tau = self.loss.student_temperature
        local, across = dino_loss(crop_logits[:2], crop_logits[2:], targets.cls, temperature=tau)
        ibot = ibot_loss(patches, targets.patches, batch.masks, temperature=tau)
        by_crop = features[0].cls.unflatten(0, (2, images))
        koleo = koleo_loss(by_crop[0])
        if self.loss.koleo_crops == "both":
            koleo = koleo + koleo_loss(by_crop[1])
        total = self.loss.dino * (local + across) + self.loss.ibot * ibot + self.loss.koleo * koleo
        return {"total": total, "dino_local": local, "dino_global": across, "ibot": ibot, "koleo": koleo}

    @torch.no_grad()
    def update_average(self, momentum: float) -> None:
        """``average ← m · average + (1 - m) · student``, over backbone and heads."""
        average: list[Tensor] = list(self.average.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(average, student, 1.0 - momentum)

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16)


def _backbone(network: nn.ModuleDict) -> VisionTransformer:
    backbone = network["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone


def _image_head(network: nn.ModuleDict) -> Head:
    head = network["dino_head"]
    assert isinstance(head, Head)
    return head


def _patch_head(network: nn.ModuleDict) -> Head:
    head = network["ibot_head"] if "ibot_head" in network else network["dino_head"]
    assert isinstance(head, Head)
    return head
