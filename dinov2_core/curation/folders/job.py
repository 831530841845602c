"""The out folder of one command: tasks with done-markers while it works, result tables and a summary at the end.

A killed command goes on where it was when the same command runs again; a finished one is not computed again. What is
computed belongs to the modules beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core import config
from dinov2_core.shard_map import ProcessShardMap, ShardFunction, Summary
from dinov2_core.stage import StageRun, StageSpec
from dinov2_core.storage import Store

WORK = ".work"
PER_TASK = 250


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
        except ValueError:
            return None
        whole = body.get("state") == config.digest(state) and all(self.store.exists(f) for f in body["files"])
        return dict(body["said"]) if whole else None

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
        """
        spec = StageSpec(WORK, "", "", "", "")
        wanted = config.digest([label, state])
        run = _Run(spec, self.store, self.verb, None, wanted, {}, ProcessShardMap(self.workers), lambda *_: None)
        keyed = {f"{label.replace(' ', '-')}-{i:06d}": dict(task) for i, task in enumerate(tasks)}
        for key, task in keyed.items():
            task["scratch"] = run.scratch(f"{key}-")
        count: Callable[[Summary], int] = lambda summary: int(summary["images"])  # noqa: E731
        # Where nobody knows how many images there are, tasks are counted.
        done = run.map(function, keyed, label=label, unit=count if total else None, total=total)
        return list(zip((task["scratch"] for task in keyed.values()), done, strict=True))

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
        body = {"state": config.digest(state), "files": [*tables, *files], "said": said}
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
