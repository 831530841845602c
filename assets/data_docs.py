"""The data docs: one page a check and an index, written beside the data by the checks themselves.

Great Expectations builds such pages too, but its templates ask eight hosts for scripts and styles and are not escaped.
These ask for nothing, and whatever a crawled page put into a URL is text on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from dinov2_core.gates.expectation import Outcome
from dinov2_core.report.environment import environment
from dinov2_core.storage import Store

FOLDER = "data_docs"
"""Below the data root; results as ``ASSET.CHECK.json``, the page of each beside it, and ``index.html``."""


def publish(
    store: Store, asset: str, check: str, versions: Mapping[str, str], rows: int, outcomes: Sequence[Outcome]
) -> str:
    """Write the result of a check, its page and the index; returns where the page lies.

    Args:
        versions: partition → hash of the manifest that was checked.
    """
    body = {
        "asset": asset,
        "check": check,
        "versions": dict(versions),
        "rows": rows,
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "outcomes": [outcome.to_plain() for outcome in outcomes],
    }
    stem = f"{FOLDER}/{asset}.{check}"
    store.write_bytes(f"{stem}.json", json.dumps(body, default=str).encode())
    store.write_bytes(f"{stem}.html", page(body).encode())
    results = [json.loads(store.read_bytes(path)) for path in store.find(FOLDER) if is_result(path)]
    store.write_bytes(f"{FOLDER}/index.html", index(results).encode())
    return store.full(f"{stem}.html")


def is_result(path: str) -> bool:
    """Whether a file of the folder is a check's result."""
    return path.count("/") == 1 and path.endswith(".json")


def page(result: Mapping[str, Any]) -> str:
    """The page of one check's result."""
    failed = [o for o in result["outcomes"] if not o["passed"]]
    passed = [o for o in result["outcomes"] if o["passed"]]
    return _environment().get_template("check.html").render(result=result, outcomes=[*failed, *passed])


def index(results: Sequence[Mapping[str, Any]]) -> str:
    """The page that lists all checks, those that block first."""
    order = {"blocks": 0, "warns": 1, "passed": 2}
    ranked = sorted(results, key=lambda r: (order[state(r["outcomes"])], r["asset"], r["check"]))
    return _environment().get_template("index.html").render(results=ranked)


def state(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """``blocks`` where an error expectation failed, ``warns`` where only others did, else ``passed``."""
    failed = {o["severity"] for o in outcomes if not o["passed"]}
    return "blocks" if "error" in failed else "warns" if failed else "passed"


def _environment() -> jinja2.Environment:
    return environment("assets", state=state, plain=_plain)


def _plain(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
