"""What is to be told to people once: kept between a sensor's looks, until it is told, and again only after a recovery.

What is not well is for the sensors to find (``health.py``); how a message goes out is ``resources/alerts.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Protocol

_TEXT = 1000
"""Characters of one remark: the state is a cursor, which the web interface shows."""


class Sends(Protocol):
    """Takes a message and says whether it arrived."""

    def send(self, text: str) -> bool: ...


@dataclass
class Notice:
    """One subject: the partitions of it that are not well and ``told``, or ``due`` to be; what was ``said`` of them."""

    told: list[str] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
    said: str = ""


@dataclass
class Notices:
    """By subject (an asset, or a check of one). Subjects that are well take no room."""

    subjects: dict[str, Notice] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Notices:
        return cls({name: Notice(**one) for name, one in json.loads(text).items()})

    def to_json(self) -> str:
        return json.dumps({name: asdict(one) for name, one in sorted(self.subjects.items())})

    def seen(self, subject: str, looked_at: Collection[str], unwell: Collection[str], said: str = "") -> None:
        """Of the partitions ``looked_at`` those ``unwell`` are due, unless told already; the others are well again."""
        notice = self.subjects.setdefault(subject, Notice())
        notice.told = [p for p in notice.told if p not in looked_at or p in unwell]
        fresh = [p for p in unwell if p not in notice.told]
        notice.due = sorted({*(p for p in notice.due if p not in looked_at), *fresh})
        if fresh:
            notice.said = said[:_TEXT]
        if not notice.told and not notice.due:
            del self.subjects[subject]

    def tell(self, alerts: Sends) -> int:
        """Send what is due, a message a subject; what does not arrive stays due. Returns how many arrived."""
        sent = 0
        for subject, notice in sorted(self.subjects.items()):
            if not notice.due:
                continue
            if not alerts.send(f"{_named(subject, notice.due)}: {notice.said}"):
                # A webhook that is gone costs a look one message's tries and not one for each.
                break
            notice.told, notice.due, notice.said = sorted({*notice.told, *notice.due}), [], ""
            sent += 1
        return sent


def _named(subject: str, partitions: list[str], most: int = 10) -> str:
    more = f" and {len(partitions) - most} more" if len(partitions) > most else ""
    return f"{subject} [{', '.join(partitions[:most])}{more}]"
