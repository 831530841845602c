"""The Dagster web interface on a free port, and a headless browser to look at it: for screenshots and for tests.

Needs the extra ``dev`` (playwright) and a Chromium on the path. What is looked at does not belong here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dinov2_core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The path of an installed browser, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def page(width: int, height: int, *, scale: float = 1.0) -> Iterator[Any]:
    """A page of a headless browser of its own (a playwright ``Page``); it asks nothing of the network by itself.

    Raises:
        UserError: no browser, or no playwright.
    """
    path = executable()
    if path is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is on the path", todo="apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("playwright is not installed", todo="pip install 'dinov2-pipeline[dev]'") from error
    options = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    if os.geteuid() == 0:
        # Chromium refuses to sandbox itself for root, as in most containers.
        options.append("--no-sandbox")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=[*options, "--disable-sync"])
        try:
            view: Any = {"width": width, "height": height}
            yield browser.new_context(viewport=view, device_scale_factor=scale).new_page()
        finally:
            browser.close()


@contextmanager
def dagster(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run ``dagster-webserver`` or ``dagster`` (``dev``) on the checkout's workspace; gives the address.

    Raises:
        UserError: it did not answer within two minutes, or ended; the message has the end of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path = Path(sys.executable).with_name(program)
    command = [str(path), *arguments, "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, **(env or {})}
    log = Path(environment["DAGSTER_HOME"]) / f"{program}.log"
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(url, process, log)
        yield url
    finally:
        _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):  # noqa: S310 - our own address
                return
        except OSError:
            time.sleep(0.2)
    raise UserError("the web interface did not start", where=str(log), todo=log.read_text()[-2000:])


def _end(process: subprocess.Popen[bytes]) -> None:
    # The server has children (code server, daemon) that only the whole group's signal reaches.
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
