"""A PostgreSQL server of a test module's own, on loopback, with a password."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipelines.tiny import free_port

PASSWORD = "pl4nted-p0stgres"


def programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


@contextmanager
def server() -> Iterator[str]:
    """Run a server; gives ``postgresql+psycopg2://user:password@host:port`` without a database."""
    bin_folder = programs()
    assert bin_folder is not None, "callers skip where there is no PostgreSQL"
    # The server refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    # Not below pytest's own folder, which is closed to other users.
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.geteuid() == 0:
        os.chown(place, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        options = {"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}
        ended = subprocess.run(
            [str(bin_folder / program), *arguments],
            cwd=place,
            env={**os.environ, "LC_ALL": "C", "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
            **options,  # type: ignore[call-overload]
        )
        assert ended.returncode == 0, f"{program}: {ended.stdout}{ended.stderr}"

    (place / "password").write_text(PASSWORD)
    (place / "password").chmod(0o644)
    port = free_port()
    data = str(place / "data")
    run("initdb", "-D", data, "-U", "dinov2", "-A", "scram-sha-256", "--pwfile", str(place / "password"), "--no-sync")
    # Durable writes are not what is tested.
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {place} -F"
    run("pg_ctl", "-D", data, "-w", "-l", str(place / "log"), "-o", options, "start")
    try:
        for name in ("dagster", "mlflow"):
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dinov2", name)
        yield f"postgresql+psycopg2://dinov2:{PASSWORD}@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(place)
