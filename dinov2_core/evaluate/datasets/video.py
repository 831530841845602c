"""UCF-101, Kinetics-400 and Something-Something V2 by their official lists, and folders of clips.

Each function returns a :class:`VideoSet`; nothing is decoded yet.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.layout import json_file, lines, present, require

VIDEOS = (".avi", ".mp4", ".webm", ".mkv", ".mov", ".mpg")


@dataclass(frozen=True)
class Clip:
    """A video file and its class from 0."""

    path: Path
    label: int


@dataclass(frozen=True)
class VideoSet:
    """``join``: what the paper makes of a clip's frame features: their mean, or all of them in a row."""

    kind: ClassVar[str] = "video"
    name: str
    classes: tuple[str, ...]
    train: tuple[Clip, ...]
    test: tuple[Clip, ...]
    join: Literal["average", "concatenate"] = "average"


def ucf101(root: Path, *, split: int = 1) -> VideoSet:
    """``UCF-101/CLASS/v_*.avi`` and ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt``."""
    lists = "ucfTrainTestlist"
    names = (f"{lists}/classInd.txt", f"{lists}/trainlist{split:02d}.txt", f"{lists}/testlist{split:02d}.txt")
    require(root, "UCF-101", *names, form=f"UCF-101/CLASS/*.avi and {', '.join(names)}")
    classes = tuple(line.split()[1] for line in lines(root / names[0]))

    def part(name: str) -> tuple[Clip, ...]:
        found = []
        for line in lines(root / name):
            path = line.split()[0]
            found.append(Clip(root / "UCF-101" / path, _class(path.split("/")[0], classes, root / name)))
        return _whole(found, root / name)

    return VideoSet(f"UCF-101 split {split}", classes, part(names[1]), part(names[2]))


def kinetics400(root: Path, *, missing: bool = False) -> VideoSet:
    """``annotations/{train,val}.csv`` (label, youtube_id, time_start, time_end, split) and ``{train,val}/…mp4``.

    Clips are named ``ID_START_END.mp4`` (six digits), beside each other or in class folders.

    Args:
        missing: go on without clips that are not there (many have gone from the web); their number is in the name.
    """
    names = ("annotations/train.csv", "annotations/val.csv", "train", "val")
    require(root, *names, form="annotations/{train,val}.csv and {train,val}/[CLASS/]ID_START_END.mp4")
    rows = {part: _csv(root / f"annotations/{part}.csv") for part in ("train", "val")}
    classes = tuple(sorted({row["label"] for row in rows["train"]}))
    lost = 0

    def part(name: str) -> tuple[Clip, ...]:
        nonlocal lost
        there = {path.stem: path for path in (root / name).rglob("*") if path.suffix in VIDEOS}
        found = []
        for row in rows[name]:
            stem = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
            if missing and stem not in there:
                lost += 1
                continue
            path = there.get(stem, root / name / f"{stem}.mp4")
            found.append(Clip(path, _class(row["label"], classes, root / f"annotations/{name}.csv")))
        return _whole(found, root / name)

    train, test = part("train"), part("val")
    return VideoSet(f"Kinetics-400{f' without {lost} clips' if lost else ''}", classes, train, test)


def ssv2(root: Path) -> VideoSet:
    """``labels/{labels,train,validation}.json`` and ``20bn-something-something-v2/ID.webm``; frames in a row."""
    names = ("labels/labels.json", "labels/train.json", "labels/validation.json", "20bn-something-something-v2")
    require(root, *names, form="labels/{labels,train,validation}.json and 20bn-something-something-v2/ID.webm")
    numbers = {name: int(number) for name, number in json_file(root / names[0]).items()}
    classes = tuple(sorted(numbers, key=lambda name: numbers[name]))

    def part(name: str) -> tuple[Clip, ...]:
        found = []
        for row in json_file(root / name):
            label = row["template"].replace("[", "").replace("]", "")
            found.append(Clip(root / names[3] / f"{row['id']}.webm", _class(label, classes, root / name)))
        return _whole(found, root / name)

    return VideoSet("SSv2", classes, part(names[1]), part(names[2]), "concatenate")


def folder(root: Path) -> VideoSet:
    """Anybody's: ``{train,val}/CLASS/*``."""
    require(root, "train", "val", form="{train,val}/CLASS/VIDEO")
    classes = tuple(sorted(path.name for path in (root / "train").iterdir() if path.is_dir()))
    for name in classes:
        if not any(path.suffix.lower() in VIDEOS for path in (root / "train" / name).iterdir()):
            todo = f"put a video there ({', '.join(VIDEOS)}), or take the folder away"
            raise UserError("a class without a video", where=str(root / "train" / name), todo=todo)

    def part(name: str) -> tuple[Clip, ...]:
        paths = sorted(path for path in (root / name).glob("*/*") if path.suffix.lower() in VIDEOS)
        return _whole([Clip(p, _class(p.parent.name, classes, root / name)) for p in paths], root / name)

    return VideoSet(root.name, classes, part("train"), part("val"))


def _class(name: str, classes: Sequence[str], where: Path) -> int:
    if name not in classes:
        raise UserError(f"the class {name!r} is not in the list of {len(classes)} classes", where=str(where))
    return classes.index(name)


def _csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {"label", "youtube_id", "time_start", "time_end"}
    if not rows or not wanted <= rows[0].keys():
        raise UserError(f"the columns {', '.join(sorted(wanted))} are expected", where=str(path))
    return rows


def _whole(clips: Sequence[Clip], where: Path) -> tuple[Clip, ...]:
    if not clips:
        raise UserError("no clips", where=str(where))
    present([clip.path for clip in clips], what="videos")
    return tuple(clips)
