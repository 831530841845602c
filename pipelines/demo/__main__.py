"""``python -m pipelines.demo``: from a small web to a registered model, with a report and a table at the end.

It fetches the real parts, builds the small web, serves it on loopback, runs the job ``full_pipeline`` in this process,
versions the result with DVC and prints what came out. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dinov2_core import parts, stage
from dinov2_core.errors import UserError
from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import close_pools
from dinov2_core.stages import registry
from pipelines import materialize, versions
from pipelines.demo import summary, web, world
from pipelines.demo.timing import Timings
from pipelines.resources.lake import Lake


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a world of some hundred images, for tests")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        return _run(world.TINY if options.tiny else world.Recipe(), started)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; `make demo` goes on from here", file=sys.stderr)
        return 130
    finally:
        close_pools()


def _run(recipe: world.Recipe, started: float) -> int:
    lake = Lake.from_environment()
    store = lake.store()
    if not store.local:
        raise UserError("the demo needs a local folder", where=lake.data_root, todo="unset DATA_ROOT")
    parts.fetch()
    place = world.build(Path(store.base) / "world", recipe, _say)
    timings = Timings(Path(store.base) / "demo" / "seconds.json")
    prepared = time.monotonic()
    inside = 0.0
    if up_to_date(lake):
        _say("everything is up to date: nothing to compute")
    else:
        _say("the crawl may reach this machine's own web server: `hosts` in params.yaml sends every name there")
        with web.serve(place / "site.parquet", _port(lake)), materialize.instance() as on:
            result = materialize.execute("full_pipeline", on=on)
        inside = timings.collect(result)
        problems = materialize.failures(result)
        for line in problems:
            print(f"error: {line}", file=sys.stderr)
        if problems:
            return 1
        if versions.record(lake, registry.STAGES):
            _say("the data's version is in metrics/, plots/ and dvc.lock, for git to keep")
    text = summary.text(store, place / "truth.parquet", timings)
    (Path(store.base) / "demo" / "summary.txt").write_text(text)
    print("\n" + text)
    total = time.monotonic() - started
    outside = time.monotonic() - prepared - inside
    print(f"this call: {total:.0f} s, of them {prepared - started:.0f} s preparing the small web")
    if inside:
        print(f"inside stages {inside:.0f} s; orchestration {outside:.0f} s ({100 * outside / total:.0f} %)")
    print("the same graph in the browser: make ui, then http://127.0.0.1:3000")
    return 0


def _port(lake: Lake) -> int:
    hosts = lake.params("raw_crawl").get("hosts") or {}
    if "*" not in hosts:
        raise UserError(
            "no `hosts: {'*': '127.0.0.1:PORT'}` in section raw_crawl",
            where=lake.params_file,
            todo="the demo's pages exist on its own web server only: take the repository's params.yaml",
        )
    return int(str(hosts["*"]).rsplit(":", 1)[1])


def up_to_date(lake: Lake) -> bool:
    """Whether every stage and batch is, and the model registered; costs a second and no run."""
    store = lake.store()
    for name, spec in registry.STAGES.items():
        params = spec.load_params(lake.params(name))
        for partition in lake.batches() if spec.partitioned else [WHOLE]:
            try:
                if stage.state(store, spec, partition, params)[2] is None:
                    return False
            except UserError:
                return False
    return (Path(store.base) / "demo" / "summary.txt").exists()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).resolve().parents[2] / ".dagster"))
    sys.exit(main())
