"""Ground truth in pickles is read; programs in pickles are not."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from dinov2_core.errors import UserError
from dinov2_core.evaluate import plain_pickle


class Attack:
    """Calls ``function(*arguments)`` when unpickled in the ordinary way."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_plain_data_comes_back(tmp_path: Path, protocol: int) -> None:
    content = {
        "imlist": ["a", "ü"],
        "gnd": [{"easy": np.array([1, 2]), "bbx": [1.5, 2, 3, 4], "n": np.float64(2.5)}],
        "words": np.array(["a", "bc"]),
        "mixed": np.array([1, "a"], dtype=object),
        "empty": np.array([], int),
        "none": (None, True, {3}),
    }
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    if protocol < 4:
        # Sets are built by name in old protocols, which is not plain.
        path.write_bytes(pickle.dumps(content | {"none": (None, True)}, protocol=protocol))
    back = plain_pickle.load(path)
    assert back["imlist"] == ["a", "ü"]
    assert back["gnd"][0]["easy"].tolist() == [1, 2]
    assert back["gnd"][0]["n"] == 2.5
    assert back["empty"].tolist() == []
    assert back["words"].tolist() == ["a", "bc"]
    assert back["mixed"].tolist() == [1, "a"]


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    "attack",
    [
        Attack(os.system, "touch PWNED"),
        Attack(eval, "open('PWNED', 'w')"),
        Attack(np.load, "PWNED"),
        Attack(np.fromfile, "PWNED"),
        Attack(getattr, "", "join"),
        Attack(pickle.loads, b"."),
        Attack(io.open, "PWNED", "w"),
    ],
    ids=lambda a: getattr(a.call[0], "__name__", "?"),
)
def test_a_program_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps({"imlist": [attack]}, protocol=protocol))
    with pytest.raises(UserError, match=r"not plain data|not a readable pickle") as error:
        plain_pickle.load(path)
    assert error.value.where == str(path)
    assert not (tmp_path / "PWNED").exists()


def test_arrays_cannot_be_built_large_or_of_another_class(tmp_path: Path) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L99999999999L\ntS'b'\ntR.")
    with pytest.raises(UserError, match="unknown way"):
        plain_pickle.load(path)


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(b"\x80\x04garbage")
    with pytest.raises(UserError, match="not a readable pickle"):
        plain_pickle.load(path)
