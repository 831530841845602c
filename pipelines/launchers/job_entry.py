"""What runs on the cluster when a stage is a job: ``python -m pipelines.launchers.job_entry DATA_ROOT ID``.

It materialises the one partition that the request names, with the cluster as its engine, and leaves the outcome where
``job_messages`` has it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

from dinov2_core import stage
from dinov2_core.errors import UserError
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.launchers.job_messages import Messages, Request, Result


def main(arguments: list[str] | None = None) -> int:
    """Run the job; 0 where it has left a manifest, 1 for an error that a person can mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root")
    parser.add_argument("identity")
    parser.add_argument("--heartbeat", type=float, default=10.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    messages = Messages(Store(options.data_root), options.identity)
    with messages.beating(options.heartbeat):
        try:
            result = materialise(messages.request())
        except UserError as error:
            result = Result(what=error.what, where=error.where, todo=error.todo)
            print(error, file=sys.stderr)
        messages.write("result", result)
    return 1 if result.what else 0


def materialise(request: Request) -> Result:
    """Bring the partition up to date."""
    from pipelines.resources.engine import Engine
    from pipelines.resources.tracking import Tracking

    store, spec = Store(request.data_root), registry.get(request.stage)
    params = spec.load_params(request.params)
    tracking: AbstractContextManager[Any] = nullcontext(None)
    if request.tracked:
        from assets.training import tracked

        lake = SimpleNamespace(store=lambda: store)
        run: Any = SimpleNamespace(run_id=request.run_id)
        tracking = tracked(run, Tracking.from_environment(), lake, spec, params)
    engine = Engine.from_environment()
    with tracking as tracker:
        made = stage.materialise(
            store,
            spec,
            request.partition,
            params,
            shard_map=engine.shard_map(),
            launcher=engine.launcher(),
            tracker=tracker,
            verify=request.verify,
        )
    return Result(made.manifest.hash, made.fresh, made.seconds)


if __name__ == "__main__":
    sys.exit(main())
