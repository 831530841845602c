"""The out folder of one command: tasks with done-markers while it works, result tables and a summary at the end.

A killed command goes on where it was when the same command runs again; a finished one is not computed again. What is
computed belongs to the modules beside.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2_core import config
from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.shard_map import ProcessShardMap, ShardFunction, Summary
from dinov2_core.stage import StageRun, StageSpec
from dinov2_core.storage import Store

WORK = ".work"
PER_TASK = 250
FORMAT = 2
"""Of what tasks leave and of the result tables: raised where they change, so that what an older version left is made
again."""
REFUSED = pa.schema([("path", pa.string()), ("reason", pa.string()), ("command", pa.string())])


class _Run(StageRun):
    @property
    def where(self) -> str:
        return self.partition


@dataclass
class Job:
    """One command's work in ``out``. ``results`` are the files it leaves, ``counts`` what it says of them."""

    out: str
    verb: str
    workers: int = 0
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.out)

    def finished(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the finished command said, where nothing of ``state`` (inputs, settings, models) has changed."""
        path = f"{self.verb}.json"
        if not self.store.exists(path):
            return None
        try:
            body = json.loads(self.store.read_bytes(path))
            same, files, said = body["state"] == _digest(state), list(body["files"]), dict(body["said"])
        except (ValueError, KeyError, TypeError):
            return None
        if not same:
            print(f"{self.out}: made with other images or settings; it is made again", file=sys.stderr)
        return said if same and all(self.store.exists(f) for f in files) else None

    def map(
        self,
        function: ShardFunction,
        tasks: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any],
        *,
        label: str,
        total: int | None = None,
    ) -> list[tuple[str, Summary]]:
        """``(path prefix of its scratch files, summary)`` of each task, in order; tasks done before are not repeated.

        ``state`` is everything that the results depend on. A task is given ``root`` and ``scratch`` beside its own
        values, and counts ``images`` in its summary.

        Raises:
            UserError: ``out`` cannot be written.
        """
        check_writable(self.store)
        spec = StageSpec(WORK, "", "", "", "")
        wanted = _digest([label, state, len(tasks)])
        run = _Run(spec, self.store, self.verb, None, wanted, {}, ProcessShardMap(self.workers), lambda *_: None)
        keyed = {f"{label.replace(' ', '-')}-{i:06d}": dict(task) for i, task in enumerate(tasks)}
        for key, task in keyed.items():
            task["scratch"] = run.scratch(f"{key}-")
        count: Callable[[Summary], int] = lambda summary: int(summary["images"])  # noqa: E731
        # Where nobody knows how many images there are, tasks are counted.
        done = run.map(function, keyed, label=label, unit=count if total else None, total=total)
        return list(zip((task["scratch"] for task in keyed.values()), done, strict=True))

    def rows(self, prefix: str, columns: Sequence[str]) -> pa.Table:
        """The table that a task left, which has ``columns`` at least.

        Raises:
            UserError: it is gone or damaged, or another version wrote it.
        """
        try:
            table = self.store.read_table(f"{prefix}rows.parquet")
        except DamagedDataError as error:
            raise self.stale(error.what) from error
        if missing := set(columns) - set(table.column_names):
            raise self.stale(f"without the column {', '.join(sorted(missing))}")
        return table

    def stale(self, what: str) -> UserError:
        """The error for scratch files that cannot be used."""
        return UserError(
            f"what an earlier run left there cannot be used: {what}",
            where=f"{self.out}/{WORK}",
            todo="delete that folder and run the same command again",
        )

    def refused(self, sets: Mapping[str, pa.Table]) -> pa.Table:
        """``refused.parquet``: ``path`` and ``reason`` of what this command refused in each of its ``sets`` (rows by
        the option that named it), beside what other commands with the same ``out`` refused."""
        parts = []
        for option, rows in sets.items():
            own = rows.filter(pc.not_equal(rows["reason"], "")).select(["path", "reason"])
            command = pa.array([f"{self.verb} {option}".strip()] * len(own), pa.string())
            parts.append(own.append_column("command", command).cast(REFUSED))
        if self.store.exists("refused.parquet"):
            before = self.store.read_table("refused.parquet")
            if before.schema.names == REFUSED.names:
                parts.append(before.filter(pc.invert(pc.starts_with(before["command"], self.verb))))
        return pa.concat_tables(parts).sort_by([("command", "ascending"), ("path", "ascending")])

    def finish(
        self,
        state: Mapping[str, Any],
        tables: Mapping[str, pa.Table | Iterable[pa.Table]],
        files: Mapping[str, bytes],
        said: dict[str, Any],
    ) -> dict[str, Any]:
        """Write the results, then the note that makes them final. A table may come in parts, which are never held
        together."""
        for name, table in tables.items():
            if isinstance(table, pa.Table):
                self.store.write_table(name, table)
            else:
                self._write_parts(name, table)
        for name, data in files.items():
            self.store.write_bytes(name, data)
        body = {"state": _digest(state), "files": [*tables, *files], "said": said}
        self.store.write_bytes(f"{self.verb}.json", json.dumps(body, indent=1).encode())
        return said

    def _write_parts(self, name: str, parts: Iterable[pa.Table]) -> None:
        waiting = iter(parts)
        first = next(waiting)
        with self.store.create(name) as out, pq.ParquetWriter(out, first.schema, compression="zstd") as writer:
            for part in chain([first], waiting):
                # One row group a part, but none for a part without rows.
                if len(part):
                    writer.write_table(part)


def check_writable(store: Store) -> None:
    """Raise :class:`UserError` where nothing can be written below a folder; an object store says so itself."""
    if store.local:
        try:
            os.makedirs(store.base, exist_ok=True)
            tempfile.TemporaryFile(dir=store.base).close()
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror})", where=store.root, todo="give another folder with --out"
            ) from error


def _digest(state: Any) -> str:
    return config.digest([FORMAT, state])


def tasks_of(groups: Sequence[Sequence[str]], **values: Any) -> list[dict[str, Any]]:
    """One task a group of files, each with ``values``."""
    return [{"names": list(names), **values} for names in groups]


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as Markdown; numbers with thousands marks or three digits."""

    def shown(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

    lines = [list(head), ["---"] * len(head), *([shown(v) for v in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
