"""The paper's published scores in per cent (arXiv 2304.07193), to stand beside ours. Numbers only."""

from __future__ import annotations

from collections.abc import Mapping

SIZES = ("S", "B", "L", "g")
WIDTHS: Mapping[int, str] = {384: "S", 768: "B", 1024: "L", 1536: "g"}

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
PAPER: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("knn", "imagenet"): (79.0, 82.1, 83.5, 83.5),
    ("linear", "imagenet"): (81.1, 84.5, 86.3, 86.5),
    ("linear", "imagenet-real"): (86.6, 88.3, 89.5, 89.6),
    ("linear", "imagenet-v2"): (70.9, 75.1, 78.0, 78.4),
    ("robustness", "imagenet-a"): (33.5, 55.1, 71.3, 75.9),
    ("robustness", "imagenet-r"): (53.7, 63.3, 74.4, 78.8),
    ("robustness", "imagenet-sketch"): (41.2, 50.6, 59.3, 62.5),
    ("corruptions", "imagenet-c"): (54.4, 42.7, 31.5, 28.2),
    ("linear", "inaturalist18"): (69.0, 76.4, 80.4, 81.6),
    ("linear", "inaturalist21"): (74.2, 81.1, 85.1, 85.7),
    ("linear", "places205"): (62.9, 66.2, 67.3, 67.5),
    **{("logistic", name): row for name, row in _FINE.items()},
}
"""``(protocol, data set)`` → the scores of S, B, L and g (tables 4, 6, 7 and 8)."""


def papers(protocol: str, dataset: str) -> dict[str, float]:
    """The paper's row by model size; empty where it has none."""
    return dict(zip(SIZES, PAPER.get((protocol, dataset), ()), strict=False))
