"""Revisited Oxford and Paris, Met and AmsterTime on disk, and pictures of instances taken several times.

Each function returns a set of pictures and who belongs to whom; nothing is decoded yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate import plain_pickle
from dinov2_core.evaluate.datasets.layout import inside, json_file, pictures, present, require, rgb

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class RevisitedSet:
    """``truth``: a query's lists ``easy``, ``hard``, ``junk`` of gallery indices; ``boxes``: left, top, right,
    bottom."""

    kind: ClassVar[str] = "revisited"
    name: str
    gallery: tuple[Path, ...]
    queries: tuple[Path, ...]
    boxes: tuple[Box, ...]
    truth: tuple[Mapping[str, tuple[int, ...]], ...]

    def query(self, number: int, *, crop: bool) -> NDArray[np.uint8]:
        """A query's pixels, of its box where ``crop``.

        Raises:
            UserError: the picture cannot be read, or its box lies outside.
        """
        pixels = rgb(self.queries[number])
        if not crop:
            return pixels
        left, top, right, bottom = self.boxes[number]
        cut = pixels[max(top, 0) : bottom, max(left, 0) : right]
        if not cut.size:
            raise UserError(f"the query's box {self.boxes[number]} lies outside", where=str(self.queries[number]))
        return cut


@dataclass(frozen=True)
class InstanceSet:
    """Galleries and queries with an instance number each; a query's is -1 where it shows none of the gallery's."""

    kind: ClassVar[str] = "instances"
    name: str
    gallery: tuple[Path, ...]
    gallery_instances: tuple[int, ...]
    queries: tuple[Path, ...]
    query_instances: tuple[int, ...]


def revisited(root: Path, name: str) -> RevisitedSet:
    """``name`` is roxford5k or rparis6k: ``gnd_NAME.pkl`` (or ``.json``) and ``jpg/``, in ``root`` or ``root/NAME``.

    The pickle is read by a reader that admits plain data only.
    """
    root = inside(root, name)
    form = f"{name}/gnd_{name}.pkl (or .json) and {name}/jpg/"
    require(root, "jpg", form=form)
    as_json = root / f"gnd_{name}.json"
    path = as_json if as_json.is_file() else require(root, f"gnd_{name}.pkl", form=form) / f"gnd_{name}.pkl"
    content = json_file(path) if path.suffix == ".json" else plain_pickle.load(path)
    try:
        gallery = tuple(root / "jpg" / f"{stem}.jpg" for stem in content["imlist"])
        queries = tuple(root / "jpg" / f"{stem}.jpg" for stem in content["qimlist"])
        rows = [_query(row, len(gallery)) for row in content["gnd"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        todo = "imlist, qimlist and gnd (bbx, easy, hard, junk a query) are expected"
        raise UserError(f"not the ground truth of {name} ({error})", where=str(path), todo=todo) from error
    if len(rows) != len(queries):
        raise UserError(f"{len(queries)} queries, but ground truth of {len(rows)}", where=str(path))
    present({*gallery, *queries}, what="pictures")
    return RevisitedSet(name, gallery, queries, tuple(b for b, _ in rows), tuple(t for _, t in rows))


def _query(row: Mapping[str, Any], gallery: int) -> tuple[Box, Mapping[str, tuple[int, ...]]]:
    left, top, right, bottom = (round(float(v)) for v in row["bbx"])
    lists = {key: tuple(int(i) for i in row[key]) for key in ("easy", "hard", "junk")}
    if any(not 0 <= i < gallery for indices in lists.values() for i in indices):
        raise ValueError(f"an index lies outside the {gallery} pictures")
    return (left, top, right, bottom), lists


def met(root: Path, *, split: str = "test") -> InstanceSet:
    """``MET_database.json`` and ``SPLITset.json`` of ``ground_truth/``, pictures below ``images/``.

    A row has ``path`` and ``id`` (the exhibit); a query without ``MET_id`` shows none of the exhibits.
    """
    names = ("ground_truth/MET_database.json", f"ground_truth/{split}set.json", "images")
    require(root, *names, form=f"{names[0]}, {names[1]} and images/")
    database, queries = json_file(root / names[0]), json_file(root / names[1])
    try:
        gallery = [(root / "images" / row["path"], int(row["id"])) for row in database]
        asked = [(root / "images" / row["path"], int(row.get("MET_id", -1))) for row in queries]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not Met's ground truth ({error})", where=str(root / "ground_truth")) from error
    present([path for path, _ in (*gallery, *asked)], what="pictures")
    return _instances("Met", gallery, asked)


def amstertime(root: Path) -> InstanceSet:
    """``new/`` is searched with ``old/``: a file of the same stem shows the same place."""
    require(root, "new", "old", form="new/ and old/ with pictures of the same stems")
    new, old = pictures(root / "new"), pictures(root / "old")
    numbers = {path.stem: n for n, path in enumerate(new)}
    if lost := [path.name for path in old if path.stem not in numbers]:
        raise UserError(
            f"{len(lost)} pictures have no partner in new/, the first is {lost[0]}", where=str(root / "old")
        )
    return _instances("AmsterTime", [(p, numbers[p.stem]) for p in new], [(p, numbers[p.stem]) for p in old])


def takes(root: Path, gallery: str, queries: str) -> InstanceSet:
    """The pictures of folder ``queries`` against those of folder ``gallery``: equal stems are the same instance.

    Queries whose stem the gallery does not have show none of its instances.
    """
    require(root, gallery, queries, form=f"{gallery}/ and {queries}/ with pictures of the same stems")
    shown = pictures(root / gallery)
    numbers = {path.stem: n for n, path in enumerate(shown)}
    asked = [(path, numbers.get(path.stem, -1)) for path in pictures(root / queries)]
    return _instances(f"{queries} → {gallery}", [(p, numbers[p.stem]) for p in shown], asked)


def _instances(name: str, gallery: list[tuple[Path, int]], queries: list[tuple[Path, int]]) -> InstanceSet:
    if not gallery or not queries:
        raise UserError(f"{len(gallery)} gallery pictures and {len(queries)} queries", where=name)
    (one, labels), (two, asked) = zip(*gallery, strict=True), zip(*queries, strict=True)
    return InstanceSet(name, one, labels, two, asked)
