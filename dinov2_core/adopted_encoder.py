"""The adopted encoder: weights that someone chose to embed the pool with, kept in the data root.

A registered model may become champion at any time; what embeds the pool changes only when it is adopted. The setting
``encoder: champion`` of the embedding stages reads what is here. Where weights come from does not belong here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass

from dinov2_core.errors import DamagedDataError
from dinov2_core.storage import Store

FOLDER = "encoders"
POINTER = f"{FOLDER}/adopted.json"
"""What is adopted, as JSON; ``null`` says the same as no file: nothing is."""


@dataclass(frozen=True)
class AdoptedEncoder:
    """``version``: its name where it came from; ``sha256`` (hex) of the weights, which is also their file's name."""

    version: str
    sha256: str

    @property
    def path(self) -> str:
        """The weights (safetensors), relative to the data root."""
        return f"{FOLDER}/{self.sha256}.safetensors"


def read(store: Store) -> AdoptedEncoder | None:
    """What is adopted, or None.

    Raises:
        DamagedDataError: the pointer cannot be read, or its weights are not there.
    """
    if not store.exists(POINTER):
        return None
    where = f"{store.root}/{POINTER}"
    try:
        told = json.loads(store.read_bytes(POINTER))
        if told is None:
            return None
        found = AdoptedEncoder(**told)
    except (ValueError, TypeError) as error:
        raise DamagedDataError(f"not readable ({error})", where=where, todo="adopt the encoder again") from error
    if not store.exists(found.path):
        raise DamagedDataError(f"its weights {found.path} are missing", where=where, todo="adopt the encoder again")
    return found


def say_none(store: Store) -> None:
    """Where nobody has adopted anything, say so in a file: for those who can only follow files that are there."""
    with contextlib.suppress(FileExistsError):
        store.write_bytes(POINTER, b"null", exclusive=True)


def adopt(store: Store, weights: bytes, version: str) -> AdoptedEncoder:
    """Put ``weights`` (a backbone's safetensors) in the data root and point to them, in this order.

    Raises:
        UserError: they are no backbone.
    """
    from dinov2_core.model.weights import from_bytes

    from_bytes(weights, where=f"version {version}")
    made = AdoptedEncoder(version, hashlib.sha256(weights).hexdigest())
    store.write_bytes(made.path, weights)
    store.write_bytes(POINTER, json.dumps(asdict(made), sort_keys=True).encode())
    return made
