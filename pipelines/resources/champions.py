"""Who holds the alias ``champion`` of the registered model, and who held it before.

Of two who set an alias the last one wins. Promotions at once must not both win, so each is first entered as a version
of a second registered model, ``NAME.champions``: the registry numbers versions without gaps, which puts entries into
one order that all agree on. An entry names the entry after which it was judged, and counts only if that is the last one
that counts: compare and set, on SQLite, PostgreSQL and servers alike. The alias follows; whoever comes next sets it if
the winner died before. Whether a model should become champion is for ``assets/promotion.py``.
"""

from __future__ import annotations

import getpass
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dinov2_core.errors import UserError
from pipelines.resources.registry import aliased, errors, versions

log = logging.getLogger(__name__)

CHAMPION = "champion"
ROLLED_BACK = "rolled_back"
"""Tag of a version that was champion and was taken back, with the reason: it is not promoted again by itself."""
_TRIES = 20
_LOOKS, _MENDED = 4, 0.25
"""Looks at an alias that is not what the history says, and seconds between them."""


@dataclass(frozen=True)
class Entry:
    """One line of the history: ``version`` became champion instead of ``before``, judged after entry ``after``."""

    number: int
    version: str
    before: str
    after: int
    kind: str
    why: str
    nonce: str
    settled: bool
    at: int

    @classmethod
    def of(cls, made: Any) -> Entry:
        """From the model version that holds it."""
        tags = made.tags
        return cls(
            number=int(made.version),
            version=tags.get("version", ""),
            before=tags.get("before", ""),
            after=int(tags.get("after", "-1")),
            kind=tags.get("kind", ""),
            why=tags.get("why", ""),
            nonce=tags.get("nonce", ""),
            settled=tags.get("settled") == "true",
            at=int(made.creation_timestamp),
        )


@dataclass(frozen=True)
class Champions:
    """The history of the alias ``champion`` of the registered model ``name``."""

    client: Any
    name: str

    @property
    def log_name(self) -> str:
        return f"{self.name}.champions"

    def history(self) -> list[Entry]:
        """The entries that count, the first one first."""
        return counting(self._entries())

    def champion(self) -> Any | None:
        """The model version that is champion, or None; an alias that a dead process did not set is set first."""
        return self._held()[1]

    def promote(self, version: str, judge: Callable[[Any | None], Any]) -> Any:
        """Make ``version`` champion if ``judge(the present champion or None).promote``; the last verdict.

        Where somebody else is promoted meanwhile, it is judged again, against that one.

        Raises:
            UserError: others were promoted meanwhile, time and again.
        """
        for _ in range(_TRIES):
            number, held = self._held()
            verdict = judge(held)
            if not verdict.promote or (held is not None and str(held.version) == str(version)):
                return verdict
            if self._enter(str(version), held, number, "promotion", verdict.reason):
                return verdict
        raise UserError(f"others were promoted {_TRIES} times meanwhile", where=self.name, todo="run this again")

    def roll_back(self, to: str = "", why: str = "") -> tuple[str, str]:
        """Make the champion before the present one (or version ``to``) champion again: ``(from, to)``.

        Raises:
            UserError: there is no champion, or none before it, or no such version.
        """
        for _ in range(_TRIES):
            number, held = self._held()
            if held is None:
                raise UserError("there is no champion", where=self.name, todo="materialise registered_model")
            target = to or self._before(str(held.version))
            if self._version(target) is None:
                raise UserError(f"there is no version {target}", where=self.name, todo="name a registered version")
            if target == str(held.version):
                raise UserError(f"version {target} is champion already", where=self.name, todo="name another version")
            if self._enter(target, held, number, "rollback", why or "no reason given"):
                self._set_tag(self.name, held.version, ROLLED_BACK, why or "no reason given")
                self.client.delete_model_version_tag(self.name, target, ROLLED_BACK)
                return str(held.version), target
        raise UserError(f"others were promoted {_TRIES} times meanwhile", where=self.name, todo="run this again")

    def _before(self, version: str) -> str:
        found = earlier(self.history(), version)
        if not found:
            raise UserError(
                f"no champion came before version {version}",
                where=self.name,
                todo="name the version to go back to: `--to VERSION`",
            )
        return found

    def _held(self) -> tuple[int, Any | None]:
        """The number of the last entry that counts (0: none), and the version with the alias."""
        for look in range(_LOOKS):
            entries = self.history()
            if entries and not entries[-1].settled:
                self._settle()
                entries = self.history()
            held = aliased(self.client, self.name, CHAMPION)
            if not entries or (held is not None and str(held.version) == entries[-1].version):
                break
            # Moved by a person, or put back for a moment by a writer who was overtaken and is about to mend it.
            if look + 1 < _LOOKS:
                time.sleep(_MENDED)
        return entries[-1].number if entries else 0, held

    def _enter(self, version: str, before: Any | None, after: int, kind: str, why: str) -> bool:
        """Write an entry; whether it counts. If so the alias is set."""
        nonce = uuid.uuid4().hex
        tags = {
            "version": version,
            "before": str(before.version) if before is not None else "",
            "after": str(after),
            "kind": kind,
            "why": why[:4000],
            "by": getpass.getuser(),
            "nonce": nonce,
        }
        self._create_log()
        try:
            self.client.create_model_version(
                self.log_name, source=f"models:/{self.name}/{version}", tags=tags, description=f"{kind}: {why}"[:4000]
            )
        except errors() as error:
            # Too many at once, or the answer was lost: the history knows.
            log.info("the entry was refused or its answer lost: %s", error)
        won = any(entry.nonce == nonce for entry in self.history())
        if won:
            self._settle()
        return won

    def _settle(self) -> None:
        """Set the alias to what the history says."""
        while True:
            last = self.history()[-1]
            self.client.set_registered_model_alias(self.name, CHAMPION, last.version)
            # Who was overtaken meanwhile has just put an older champion back, and mends it.
            if self.history()[-1].number == last.number:
                self._set_tag(self.log_name, last.number, "settled", "true")
                return

    def _set_tag(self, name: str, version: Any, key: str, value: str) -> None:
        self.client.set_model_version_tag(name, str(version), key, value)

    def _create_log(self) -> None:
        try:
            self.client.create_registered_model(
                self.log_name, description=f"Who was champion of {self.name} and why: a version an entry."
            )
        except errors() as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise

    def _entries(self) -> list[Entry]:
        return [Entry.of(made) for made in versions(self.client, self.log_name)]

    def _version(self, number: str) -> Any | None:
        return next((one for one in versions(self.client, self.name) if str(one.version) == number), None)


def counting(entries: list[Entry]) -> list[Entry]:
    """Those entries that name the last counting one before them, in order."""
    found: list[Entry] = []
    for entry in sorted(entries, key=lambda one: one.number):
        if entry.after == (found[-1].number if found else 0):
            found.append(entry)
    return found


def earlier(history: list[Entry], version: str) -> str:
    """The champion before ``version``, those that were taken back left out; empty where there is none."""
    stack: list[str] = []
    for entry in history:
        if entry.before and (not stack or stack[-1] != entry.before):
            stack.append(entry.before)  # somebody had moved the alias by hand
        if entry.kind == "rollback" and stack:
            stack.pop()
        if not stack or stack[-1] != entry.version:
            stack.append(entry.version)
    if stack and stack[-1] == version:
        stack.pop()
    return stack[-1] if stack else ""
