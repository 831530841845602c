"""Charts: round scales that hold all points, deterministic and well-formed markup, escaped labels."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov2_core.report.charts import HEIGHT, WIDTH, Interval, intervals, line, ticks

HOSTILE = '"><script>alert(1)</script>'


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_the_values_and_are_few(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    assert marks[0] <= low + 1e-6 * width
    assert marks[-1] >= low + width * (1 - 1e-6)
    assert 2 <= len(marks) <= 8
    assert marks == sorted(marks)


def test_ticks_of_one_value_are_around_it() -> None:
    marks = ticks(3.0, 3.0)
    assert marks[0] < 3.0 < marks[-1]


def test_a_curve_has_every_finite_point_inside_the_picture() -> None:
    points = [(0.0, 5.0), (10.0, math.nan), (20.0, 3.0), (30.0, 4.0)]
    svg = line(points, title="loss")
    root = ElementTree.fromstring(svg)
    path = next(e for e in root.iter("path"))
    places = [tuple(map(float, xy)) for xy in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path.attrib["d"])]
    assert len(places) == 3
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert places[0][1] < places[2][1] < places[1][1], "higher values are further up"
    assert "5 at step 0" in root.attrib["aria-label"]


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, math.nan), (1.0, math.inf)]])
def test_no_curve_without_two_points(points: list[tuple[float, float]]) -> None:
    assert line(points, title="loss") == ""


def test_intervals_keep_their_order_and_escape_their_labels() -> None:
    rows = [Interval(HOSTILE, 0.5, 0.45, 0.55, main=True), Interval("pixels", 0.3, 0.28, 0.33)]
    svg = intervals(rows, title=HOSTILE)
    root = ElementTree.fromstring(svg)
    assert not list(root.iter("script"))
    dots = list(root.iter("circle"))
    assert float(dots[0].attrib["cx"]) > float(dots[1].attrib["cx"])
    assert [e.text for e in root.iter("text") if e.attrib["class"] == "value"] == ["50.0 %", "30.0 %"]
    assert intervals(rows, title=HOSTILE) == svg
