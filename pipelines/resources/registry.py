"""The registered model in MLflow: its versions, and who holds the alias ``champion``.

Of two who set an alias the last one wins. Promotions at once must not both win, so each is first entered as a version
of a second registered model, ``NAME.champions``: the registry numbers versions without gaps, which puts entries into
one order that all agree on. An entry names the entry after which it was judged, and counts only if that is the last one
that counts: compare and set, on SQLite, PostgreSQL and servers alike. The alias follows; whoever comes next sets it if
the winner died before. Whether a model should become champion is for ``assets/promotion.py``.
"""

from __future__ import annotations

import getpass
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import dinov2_core
from dinov2_core.errors import UserError

log = logging.getLogger(__name__)

CANDIDATE, CHAMPION = "candidate", "champion"
ROLLED_BACK = "rolled_back"
"""Tag of a version that was champion and was taken back, with the reason: it is not promoted again by itself."""
MODEL_ID = "model_id"
"""Tag of a version: the logged model, on which the scores hang. Versions that are looked up do not say it."""
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
SERVED = ("__init__.py", "config.py", "embedder.py", "errors.py", "images/__init__.py", "images/decode.py", "model")
"""What of ``dinov2_core`` a logged model brings along, so that it needs no other package of ours."""
REQUIREMENTS = ("mlflow", "numpy", "pillow", "safetensors", "torch")
_TRIES = 20


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
        entries = self.history()
        if entries and not entries[-1].settled:
            self._settle()
            entries = self.history()
        return entries[-1].number if entries else 0, aliased(self.client, self.name, CHAMPION)

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
        except _errors() as error:
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
        except _errors() as error:
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


def versions(client: Any, name: str, **tags: str) -> list[Any]:
    """All versions of a registered model that have these tags, the oldest first."""
    wanted = " and ".join([f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())])
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(wanted, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda one: int(one.version))


def aliased(client: Any, name: str, alias: str) -> Any | None:
    """The version that carries ``alias``, or None; an error that is not "there is none" is raised."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except _errors() as error:
        # "Not found" of an alias comes as an invalid parameter.
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def find_version(client: Any, name: str, manifest_hash: str) -> Any | None:
    """The registered model version made from this manifest, or None."""
    found = versions(client, name, manifest=manifest_hash)
    return found[0] if found else None


def register(
    client: Any,
    name: str,
    folder: str,
    run_id: str,
    manifest_hash: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> Any:
    """Log the model in ``folder`` under a training's run and register it as candidate; returns the model version.

    Code goes by path and weights as safetensors: nothing is pickled. The card becomes the version's description.
    """
    import mlflow

    about = {"manifest": manifest_hash, **tags}
    pixels = [[[0, 0, 0]] * 4] * 4
    with tempfile.TemporaryDirectory() as code, mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL_CODE),
            artifacts={"model": folder},
            code_paths=[served_code(Path(code))],
            pip_requirements=requirements(),
            input_example=([pixels], {"output": "cls", "normalise": True}),
            tags=about,
        )
        mlflow.log_metrics(dict(metrics), model_id=info.model_id)
    if not _exists(client, name):
        client.create_registered_model(name)
    card = Path(folder) / "card.md"
    # One call, so that nobody ever sees a version without its manifest.
    version = client.create_model_version(
        name,
        source=f"models:/{info.model_id}",
        run_id=run_id,
        tags={**about, MODEL_ID: info.model_id},
        description=card.read_text() if card.exists() else None,
        model_id=info.model_id,
    )
    client.set_registered_model_alias(name, CANDIDATE, version.version)
    return version


def served_code(folder: Path) -> str:
    """A copy of the part of ``dinov2_core`` that :data:`SERVED` names, below ``folder``."""
    source, target = Path(dinov2_core.__file__).parent, folder / "dinov2_core"
    for name in SERVED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / name, target / name)
    return str(target)


def requirements() -> list[str]:
    """The packages that a logged model needs, at the versions of this environment."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS]


def _exists(client: Any, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except _errors() as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _errors() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException
