"""The backbone: official sizes, packed passes equal to separate ones, masks, positions, stochastic depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov2_core.model import position
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

SMALL = VitConfig(dim=32, depth=2, heads=2, patch=4, image_size=16, layer_scale=0.5)


def build(drop_path: float = 0.0, **changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(**{**vars(SMALL), **changes}), drop_path=drop_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "registers", "count"),
    [
        ({"dim": 384, "depth": 12, "heads": 6}, 0, 22_056_576),
        ({"dim": 384, "depth": 12, "heads": 6}, 4, 22_058_112),
        ({"dim": 768, "depth": 12, "heads": 12}, 0, 86_580_480),
        ({"dim": 768, "depth": 12, "heads": 12}, 4, 86_583_552),
        ({"dim": 1024, "depth": 24, "heads": 16}, 4, 304_372_736),
        ({"dim": 1024, "depth": 24, "heads": 16, "ffn": "swiglu"}, 0, 304_794_880),
        ({"dim": 1536, "depth": 40, "heads": 24, "ffn": "swiglu"}, 4, 1_136_486_912),
    ],
)
def test_parameter_counts_are_the_released_ones(shape: dict[str, object], registers: int, count: int) -> None:
    with torch.device("meta"):
        model = VisionTransformer(VitConfig(**shape, registers=registers))  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_packed_pass_equals_separate_passes_and_gradients(registers: int, ffn: str) -> None:
    model = build(registers=registers, ffn=ffn)
    crops = [torch.randn(3, 3, 16, 16), torch.randn(5, 3, 8, 8), torch.randn(2, 3, 8, 12)]

    def gradients(outputs: list[Tensor]) -> list[Tensor]:
        model.zero_grad()
        sum(o.square().sum() for o in outputs).backward()  # type: ignore[union-attr]
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    packed = model.forward_list(crops)
    separate = [model(c) for c in crops]
    for one, two in zip(packed, separate, strict=True):
        assert torch.allclose(one.cls, two.cls, atol=1e-5)
        assert torch.allclose(one.patches, two.patches, atol=1e-5)
        assert torch.allclose(one.registers, two.registers, atol=1e-5)
    for one, two in zip(gradients([f.cls for f in packed]), gradients([f.cls for f in separate]), strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("registers", "ffn", "layer_scale"), [(0, "mlp", 0.5), (4, "swiglu", None)])
def test_the_features_that_are_used_equal_those_of_all_tokens(
    registers: int, ffn: str, layer_scale: float | None, training: bool
) -> None:
    """Outputs and gradients, with the same draws of stochastic depth; one group asks for patches, one for none."""
    model = build(drop_path=0.5, registers=registers, ffn=ffn, layer_scale=layer_scale).double().train(training)
    crops = [torch.randn(4, 3, 16, 16).double(), torch.randn(6, 3, 8, 8).double()]
    masks = torch.rand(4, 16) < 0.4
    masks[1] = False

    def outputs(*, used: bool) -> list[Tensor]:
        torch.manual_seed(5)
        if used:
            found = model.forward_used(crops, [masks, None], [masks, None])
            assert found[1].patches.shape == (0, 32)
            return [found[0].cls, found[0].patches, found[1].cls]
        whole = model.forward_list(crops, [masks, None])
        return [whole[0].cls, whole[0].patches[masks], whole[1].cls]

    def gradients(found: list[Tensor]) -> list[Tensor]:
        loss = sum((o * torch.linspace(-1, 1, o.numel()).view_as(o)).sum() for o in found)
        names = [p for n, p in model.named_parameters() if n != "register_tokens"]
        return list(torch.autograd.grad(loss, names))  # type: ignore[arg-type]

    some, every = outputs(used=True), outputs(used=False)
    for one, two in zip([*some, *gradients(some)], [*every, *gradients(every)], strict=True):
        assert torch.allclose(one, two, atol=1e-10)


def test_masked_patches_do_not_show() -> None:
    model = build().eval()
    torch.nn.init.normal_(model.mask_token)
    images = torch.randn(2, 3, 16, 16)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, 5] = True
    changed = images.clone()
    changed[0, :, 4:8, 4:8] += 1  # patch 5
    with torch.no_grad():
        assert torch.equal(model(images, masks).patches, model(changed, masks).patches)
        assert not torch.allclose(model(images).patches, model(changed).patches)


def test_sides_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of the patch size 4"):
        build()(torch.randn(1, 3, 16, 18))


@pytest.mark.parametrize(("offset", "antialias"), [(0.1, False), (0.0, True)])
def test_positions_at_the_stored_grid_are_the_stored_ones(offset: float, antialias: bool) -> None:
    stored = torch.randn(1, 17, 8)
    same = position.interpolate(stored, 4, 4, square=True, offset=offset, antialias=antialias)
    assert same is stored
    wide = position.interpolate(stored, 3, 7, square=False, offset=offset, antialias=antialias)
    assert wide.shape == (1, 22, 8)
    assert torch.equal(wide[:, 0], stored[:, 0])


def test_sine_positions_tell_every_patch_apart() -> None:
    waves = position.sines(8, 64)
    distance = torch.cdist(waves, waves) + 1e9 * torch.eye(64)
    assert waves.shape == (64, 64)
    assert float(distance.min()) > 0.5


def test_evaluation_drops_nothing() -> None:
    model = build(drop_path=0.9).eval()
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images).cls, model(images).cls)


def test_last_layers_end_with_the_output() -> None:
    model = build().eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        layers, output = model.last_layers(images, 2), model(images)
    assert len(layers) == 2
    assert torch.equal(layers[-1].cls, output.cls)
