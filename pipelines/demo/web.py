"""Serves the demo's small web on loopback, misbehaviour included, from a process of its own.

The crawl is told to send every host name here (``hosts`` in its settings); the Host header says which site is meant.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from aiohttp import web

from dinov2_core.errors import UserError
from dinov2_core.shard_map import end_with_parent
from pipelines.demo.hostile import Answer

HOST, PORT = "127.0.0.1", 8931


def load(site: Path) -> dict[str, Answer]:
    """URL → answer."""
    rows = pq.read_table(site).to_pylist()
    return {r.pop("url"): Answer(**{**r, "headers": dict(r["headers"])}) for r in rows}


def application(answers: dict[str, Answer]) -> web.Application:
    """The web application; ``flaky`` paths fail on their first request."""
    tried: set[str] = set()

    async def handle(request: web.Request) -> web.StreamResponse:
        url = f"http://{request.host}{request.path}"
        answer = answers.get(url)
        if answer is None:
            return web.Response(status=404, text="no such page")
        if answer.behaviour == "flaky" and url not in tried:
            tried.add(url)
            return web.Response(status=503, headers={"Retry-After": "0"})
        if answer.behaviour in ("endless", "short"):
            return await _misbehave(request, answer)
        headers = {**answer.headers, "Content-Type": answer.content_type}
        return web.Response(body=answer.body, status=answer.status, headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    return app


async def _misbehave(request: web.Request, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": answer.content_type})
    if answer.behaviour == "short":
        response.content_length = 10 * len(answer.body)
        await response.prepare(request)
        await response.write(answer.body)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.prepare(request)
    try:
        for _ in range(10_000):  # bounded: a gigabyte
            await response.write(b"\xff\xd8\xff\xe0" + b"\0" * 100_000)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


def _run(site: str, port: int) -> None:
    # A demo that is killed must not leave the port taken for the next one.
    threading.Thread(target=end_with_parent, daemon=True).start()

    async def main() -> None:
        runner = web.AppRunner(application(load(Path(site))), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def serve(site: Path, port: int = PORT) -> Iterator[str]:
    """Serve ``site.parquet`` until the block ends; gives ``address:port``.

    Raises:
        UserError: the port is taken by another program.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} is taken ({error.strerror})",
                where="the demo's web server",
                todo="stop the program that listens there (an earlier demo?) and run the same command again",
            ) from error
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(str(site), port), daemon=True)
    process.start()
    try:
        _wait(process, port)
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        process.join(5)
        # Who starts this program may have it ignore the polite signal, and children inherit that.
        process.kill()
        process.join()


def _wait(process: multiprocessing.process.BaseProcess, port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.is_alive():
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise UserError("the demo's web server did not start", todo="see the messages above")
