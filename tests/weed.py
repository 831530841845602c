"""A real S3 server (SeaweedFS) on loopback for tests: real keys, real refusals, and it can be killed and come back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from tests.pipelines.tiny import free_port

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
KEY, GUEST, SECRET, BUCKET = "testkey", "guestkey", "testsecret123", "lake"
START_SECONDS = 60


@dataclass
class Weed:
    """One server with one bucket; ``env`` is what clients need to find it."""

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {n: free_port() for n in ("master", "volume", "filer", "s3")})
    grpc: dict[str, int] = field(default_factory=lambda: {n: free_port() for n in ("master", "volume", "filer", "s3")})
    process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3']}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Begin to serve; returns once the bucket is there."""
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        rights = {KEY: everything, GUEST: [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")]}
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET}], "actions": actions}
            for key, actions in rights.items()
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (self.folder / "data").mkdir(exist_ok=True)
        command = [
            str(WEED),
            f"-logdir={self.folder}",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.folder / 'data'}",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=40",
            *(f"-{name}.port={port}" for name, port in self.ports.items()),
            *(f"-{name}.port.grpc={port}" for name, port in self.grpc.items()),
            "-s3",
            # Catalogues that nobody here uses, on ports that only one server could have.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={self.folder / 's3.json'}",
        ]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)
        self._wait_for_bucket()

    def stop(self) -> None:
        """Pull the plug."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _wait_for_bucket(self) -> None:
        assert self.process is not None, "started above"
        until = time.monotonic() + START_SECONDS
        options = {"key": KEY, "secret": SECRET, "endpoint_url": self.env["AWS_ENDPOINT_URL"]}
        while True:
            fs = fsspec.filesystem("s3", skip_instance_cache=True, **options)
            try:
                fs.call_s3("create_bucket", Bucket=BUCKET)
                fs.pipe_file(f"{BUCKET}/.started", b"1")
                fs.rm_file(f"{BUCKET}/.started")
            except FileExistsError:
                return
            except Exception:  # noqa: BLE001 - whatever a server that is still starting answers
                log = (self.folder / "log").read_text()
                assert self.process.poll() is None, log[-2000:]
                assert time.monotonic() < until, log[-2000:]
                time.sleep(0.3)
            else:
                return


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """This process's environment with ``values``, for clients that read it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
