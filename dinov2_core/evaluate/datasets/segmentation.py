"""ADE20k, Cityscapes and VOC 2012 in their official trees, and anybody's pictures with masks.

Each function takes the folder and returns a :class:`dense.SegmentationSet`; nothing is decoded yet.
"""

from __future__ import annotations

from pathlib import Path

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.dense import IGNORE, Pair, SegmentationSet
from dinov2_core.evaluate.datasets.layout import inside, lines, pictures, present, require

CITYSCAPES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Label id → class, for the 19 classes that are evaluated; all other ids are ignored."""

VOC = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)


def ade20k(root: Path) -> SegmentationSet:
    """The scene-parsing release: 150 classes stored as 1 to 150, 0 is ignored. Classes are named by their number."""
    form = "ADEChallengeData2016 with images/ and annotations/, each with training/ and validation/"
    root = require(inside(root, "ADEChallengeData2016"), "images", "annotations", form=form)
    require(root, "images/training", "images/validation", "annotations/training", "annotations/validation", form=form)

    def part(name: str) -> tuple[Pair, ...]:
        images = pictures(root / "images" / name)
        return _with_targets(images, [root / "annotations" / name / f"{i.stem}.png" for i in images], root / name)

    names = tuple(str(n) for n in range(1, 151))
    labels = ((0, IGNORE), *((n, n - 1) for n in range(1, 151)))
    return SegmentationSet("ADE20k", names, part("training"), part("validation"), labels)


def cityscapes(root: Path) -> SegmentationSet:
    """Fine annotations, ``…_gtFine_labelIds.png``; train and val."""
    form = "Cityscapes with leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_labelIds.png"
    require(root, "leftImg8bit/train", "leftImg8bit/val", "gtFine/train", "gtFine/val", form=form)

    def part(name: str) -> tuple[Pair, ...]:
        images = sorted((root / "leftImg8bit" / name).glob("*/*_leftImg8bit.png"))
        stems = [i.name.removesuffix("_leftImg8bit.png") for i in images]
        targets = [
            root / "gtFine" / name / i.parent.name / f"{stem}_gtFine_labelIds.png"
            for i, stem in zip(images, stems, strict=True)
        ]
        return _with_targets(images, targets, root / "leftImg8bit" / name)

    order = {number: value for value, number in enumerate(CITYSCAPES)}
    labels = tuple((number, order.get(number, IGNORE)) for number in range(34))
    return SegmentationSet("Cityscapes", tuple(CITYSCAPES.values()), part("train"), part("val"), labels)


def voc2012(root: Path) -> SegmentationSet:
    """VOC 2012; where ``SegmentationClassAug`` and ``train_aug.txt`` are there, they are the training set."""
    form = "VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt"
    root = inside(root, "VOCdevkit/VOC2012", "VOC2012")
    lists = "ImageSets/Segmentation"
    require(root, "JPEGImages", "SegmentationClass", f"{lists}/train.txt", f"{lists}/val.txt", form=form)

    def part(name: str, masks: str) -> tuple[Pair, ...]:
        stems = lines(root / lists / f"{name}.txt")
        images = [root / "JPEGImages" / f"{stem}.jpg" for stem in stems]
        present(images, what="pictures")
        return _with_targets(images, [root / masks / f"{stem}.png" for stem in stems], root / lists / f"{name}.txt")

    augmented = (root / lists / "train_aug.txt").is_file() and (root / "SegmentationClassAug").is_dir()
    train = part("train_aug", "SegmentationClassAug") if augmented else part("train", "SegmentationClass")
    labels = (*((n, n) for n in range(21)), (255, IGNORE))
    return SegmentationSet("VOC 2012", VOC, train, part("val", "SegmentationClass"), labels)


def folder(root: Path) -> SegmentationSet:
    """Anybody's: ``images/{train,val}``, ``masks/{train,val}/STEM.png`` with classes from 0, 255 ignored, and
    ``classes.txt`` with a class a line."""
    form = "images/{train,val}, masks/{train,val} and classes.txt"
    names = ("images/train", "images/val", "masks/train", "masks/val", "classes.txt")
    require(root, *names, form=form)

    def part(name: str) -> tuple[Pair, ...]:
        images = pictures(root / "images" / name)
        return _with_targets(images, [root / "masks" / name / f"{i.stem}.png" for i in images], root / "images" / name)

    classes = tuple(lines(root / "classes.txt"))
    if not 2 <= len(classes) <= 255:
        raise UserError(f"{len(classes)} classes, 2 to 255 expected", where=str(root / "classes.txt"))
    labels = (*((n, n) for n in range(len(classes))), (255, IGNORE))
    return SegmentationSet(root.name, classes, part("train"), part("val"), labels)


def _with_targets(images: list[Path], targets: list[Path], where: Path) -> tuple[Pair, ...]:
    if not images:
        raise UserError("no pictures", where=str(where))
    present(targets, what="ground-truth files")
    return tuple(Pair(i, t) for i, t in zip(images, targets, strict=True))
