"""A server in front of another: it refuses in bursts, as an object store under load does, or goes away halfway."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Bursts:
    """Every ``period`` seconds, ``length`` seconds of refusals; what was passed on and refused is counted."""

    period: float = 1.0
    length: float = 0.4
    passed: int = 0
    refused: int = 0
    written: int = 0
    url: str = ""
    _began: float = field(default_factory=time.monotonic)

    def refuses(self) -> bool:
        return (time.monotonic() - self._began) % self.period < self.length


@dataclass
class GoesAway(Bursts):
    """Nothing is refused; ``pull_the_plug`` is called once, at the first request after ``writes`` are through."""

    writes: int = 1
    pull_the_plug: Callable[[], None] = lambda: None
    gone: bool = False

    def refuses(self) -> bool:
        if not self.gone and self.written >= self.writes:
            self.gone = True
            self.pull_the_plug()
        return False


@contextmanager
def in_front_of(port: int, bursts: Bursts) -> Iterator[Bursts]:
    """Serve on a port of its own until the block ends; requests go on as they are, signatures and all."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if bursts.refuses():
                bursts.refused += 1
                self._answer(503, {"Content-Type": "application/xml"}, BODY)
                return
            bursts.passed += 1
            to = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            to.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    to.putheader(name, value)
            try:
                to.endheaders(body)
                answer = to.getresponse()
                content = answer.read()
            except ConnectionError:
                # The other one is gone: so is this connection, without an answer.
                self.close_connection = True
                return
            bursts.written += self.command == "PUT" and answer.status == 200
            drop = ("transfer-encoding", "connection", "content-length")
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in drop}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self._answer(answer.status, headers, content, length)
            to.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes, length: str | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

        def log_message(self, *about: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    bursts.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bursts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
