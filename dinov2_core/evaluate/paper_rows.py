"""The paper's published scores (arXiv 2304.07193), to stand beside ours: per cent, depth in metres. Numbers only."""

from __future__ import annotations

from collections.abc import Mapping

SIZES = ("S", "B", "L", "g")

_FINE = {
    "food": (89.1, 92.8, 94.3, 94.7),
    "cifar10": (97.7, 98.7, 99.3, 99.5),
    "cifar100": (87.5, 91.3, 93.4, 94.4),
    "sun397": (74.4, 77.3, 78.7, 78.7),
    "cars": (81.6, 88.2, 90.1, 91.4),
    "aircraft": (74.0, 79.4, 81.5, 87.2),
    "voc2007": (87.8, 88.2, 88.3, 89.0),
    "dtd": (80.6, 83.3, 84.0, 84.5),
    "pets": (95.1, 96.2, 96.6, 96.7),
    "caltech101": (97.0, 96.1, 97.5, 97.6),
    "flowers": (99.6, 99.6, 99.7, 99.7),
    "cub": (88.1, 89.6, 90.5, 91.6),
}
PAPER: Mapping[tuple[str, str, str], tuple[float, ...]] = {
    ("knn", "imagenet", ""): (79.0, 82.1, 83.5, 83.5),
    ("linear", "imagenet", ""): (81.1, 84.5, 86.3, 86.5),
    ("linear", "inaturalist18", ""): (69.0, 76.4, 80.4, 81.6),
    ("linear", "inaturalist21", ""): (74.2, 81.1, 85.1, 85.7),
    ("linear", "places205", ""): (62.9, 66.2, 67.3, 67.5),
    ("robustness", "imagenet", "imagenet-real"): (86.6, 88.3, 89.5, 89.6),
    ("robustness", "imagenet", "imagenet-v2"): (70.9, 75.1, 78.0, 78.4),
    ("robustness", "imagenet", "imagenet-a"): (33.5, 55.1, 71.3, 75.9),
    ("robustness", "imagenet", "imagenet-r"): (53.7, 63.3, 74.4, 78.8),
    ("robustness", "imagenet", "imagenet-sketch"): (41.2, 50.6, 59.3, 62.5),
    ("corruptions", "imagenet", "mCE"): (54.4, 42.7, 31.5, 28.2),
    **{("logistic", name, ""): row for name, row in _FINE.items()},
    ("video", "Kinetics-400", "accuracy"): (67.8, 73.2, 76.3, 78.4),
    ("video", "UCF-101 split 1", "accuracy"): (87.0, 89.1, 90.5, 91.2),
    ("video", "SSv2", "accuracy"): (33.1, 34.4, 35.6, 38.3),
    ("revisited", "roxford5k", "mAP medium"): (68.8, 72.9, 75.1, 73.6),
    ("revisited", "roxford5k", "mAP hard"): (43.2, 49.5, 54.0, 52.3),
    ("revisited", "rparis6k", "mAP medium"): (84.6, 90.3, 92.7, 92.1),
    ("revisited", "rparis6k", "mAP hard"): (68.5, 78.6, 83.5, 82.6),
    ("instances", "Met", "gap"): (29.4, 36.7, 40.0, 36.8),
    ("instances", "Met", "gap-"): (54.3, 63.5, 68.9, 73.6),
    ("instances", "Met", "accuracy"): (57.7, 66.1, 71.6, 76.5),
    ("instances", "AmsterTime", "mAP"): (43.5, 45.6, 50.0, 46.7),
    ("segmentation", "ADE20k", "mIoU"): (44.3, 47.3, 47.7, 49.0),
    ("segmentation", "Cityscapes", "mIoU"): (66.6, 69.4, 70.3, 71.3),
    ("segmentation", "VOC 2012", "mIoU"): (81.1, 82.5, 82.1, 83.0),
    ("segmentation-ms", "ADE20k", "mIoU"): (47.2, 51.3, 53.1, 53.0),
    ("segmentation-ms", "Cityscapes", "mIoU"): (77.1, 80.0, 80.9, 81.0),
    ("segmentation-ms", "VOC 2012", "mIoU"): (82.6, 84.9, 86.0, 86.2),
    ("depth", "NYUd", "rmse linear"): (0.449, 0.399, 0.384, 0.344),
    ("depth", "NYUd", "rmse linear4"): (0.417, 0.362, 0.333, 0.298),
    ("depth", "NYUd", "rmse dpt"): (0.356, 0.317, 0.293, 0.279),
    ("depth", "NYUd", "SUN RGB-D: rmse linear"): (0.477, 0.448, 0.429, 0.402),
    ("depth", "NYUd", "SUN RGB-D: rmse linear4"): (0.431, 0.400, 0.396, 0.362),
    ("depth", "NYUd", "SUN RGB-D: rmse dpt"): (0.409, 0.377, 0.360, 0.338),
    ("depth", "KITTI", "rmse linear"): (3.10, 2.90, 2.78, 2.62),
    ("depth", "KITTI", "rmse linear4"): (2.86, 2.59, 2.50, 2.35),
    ("depth", "KITTI", "rmse dpt"): (2.34, 2.23, 2.14, 2.11),
}
"""``(protocol, data set, metric)`` → the scores of S, B, L and g (tables 4 and 6 to 11); no metric: all of them."""


def papers(protocol: str, dataset: str, metric: str) -> dict[str, float]:
    """The paper's row by model size; empty where it has none."""
    row = PAPER.get((protocol, dataset, metric)) or PAPER.get((protocol, dataset, ""), ())
    return dict(zip(SIZES, row, strict=False))
