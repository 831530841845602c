"""A stage as a job on a Ray cluster: submitted, watched and cancelled by HTTP, with its news on storage.

Nothing is lost when this side dies: the job goes on, and whoever asks for the same work finds it and waits for it. A
job that vanishes with its cluster, or that lives but does not beat, is submitted again: what it had done is on storage.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dinov2_core import manifest
from dinov2_core.errors import UserError
from dinov2_core.stage import Materialised
from dinov2_core.storage import Store
from pipelines.launchers.job_messages import Messages, Request, Result

log = logging.getLogger(__name__)
_VANISHED = "vanished"


@dataclass(frozen=True)
class RayJobs:
    """Jobs on the cluster whose dashboard is at ``address`` (``http://…``).

    Args:
        folder: where the checkout is on the cluster's machines; empty where jobs start in it, or it is installed.
        python: the interpreter there.
        cpus, gpus: of the job's own process, which runs what stages do not give to workers.
        resubmissions: how often a job that vanished is submitted again.
        poll: seconds between two looks.
        silence: seconds without a heartbeat, or without an answer of the cluster, after which a job has vanished.
        start: seconds that its process may take to the first heartbeat.
    """

    address: str
    folder: str = ""
    python: str = "python"
    cpus: float = 1.0
    gpus: float = 0.0
    resubmissions: int = 2
    poll: float = 5.0
    silence: float = 180.0
    start: float = 300.0
    heartbeat: float = 10.0

    def materialise(self, request: Request) -> Materialised:
        """Bring the partition up to date on the cluster, and wait for it.

        Raises:
            UserError: what ended the job; or nobody answers at the address; or it vanished too often.
        """
        store = Store(request.data_root)
        client = self._client()
        tries, seen = 0, set[str]()
        while True:
            found = self._running(client, request, seen)
            identity = found or self._submit(client, store, request)
            # Its process may take a moment to end after its result.
            seen.add(identity)
            messages = Messages(store, identity)
            result = self._watched(client, messages)
            if result is None:
                tries += 1
                if tries > self.resubmissions:
                    raise UserError(
                        f"its job vanished {tries} times, the last was {identity}{self._tail(client, identity)}",
                        where=f"{request.stage}[{request.partition}]",
                        todo="look at the cluster's memory and its head's log; finished shards are kept",
                    )
                log.warning("job %s has vanished; it is submitted again", identity)
                continue
            messages.remove()
            result.raise_error()
            # A job of an earlier run may have begun before the data changed: asked again, it is a matter of seconds.
            if found:
                continue
            made = manifest.read(store, request.stage, request.partition)
            assert made is not None, "a result without an error follows a manifest"
            return Materialised(made, result.fresh, result.seconds)

    def _client(self) -> Any:
        try:
            from ray.job_submission import JobSubmissionClient

            return JobSubmissionClient(self.address)
        except ImportError as error:
            raise UserError("Ray is not installed", todo="install the extra `ray`, or unset RAY_ADDRESS") from error
        except (ConnectionError, RuntimeError) as error:
            raise UserError(
                f"no Ray dashboard answers ({str(error).splitlines()[0]})",
                where=f"RAY_ADDRESS={self.address}",
                todo="check the address and that the cluster is up",
            ) from error

    def _running(self, client: Any, request: Request, seen: Collection[str]) -> str:
        """The job that does this very work now, of those not ``seen``, or an empty string."""
        for job in client.list_jobs():
            identity = job.submission_id or ""
            own = identity.rpartition("-")[0] == request.work and identity not in seen
            if own and not job.status.is_terminal():
                log.info("job %s of an earlier run does this; waiting for it", identity)
                return identity
        return ""

    def _submit(self, client: Any, store: Store, request: Request) -> str:
        identity = f"{request.work}-{uuid.uuid4().hex[:8]}"
        Messages(store, identity).write("request", request)
        words = [self.python, "-m", "pipelines.launchers.job_entry", request.data_root, identity]
        command = shlex.join([*words, "--heartbeat", f"{self.heartbeat:g}"])
        if self.folder:
            command = f"cd {shlex.quote(self.folder)} && exec {command}"
        until = time.monotonic() + self.start
        while True:
            try:
                client.submit_job(
                    entrypoint=command,
                    submission_id=identity,
                    entrypoint_num_cpus=self.cpus,
                    entrypoint_num_gpus=self.gpus if request.tracked else 0,
                    metadata={"stage": request.stage, "partition": request.partition, "dagster_run": request.run_id},
                )
                break
            except RuntimeError as error:
                # A cluster that has just started answers before the agents of its machines do.
                if "No available agent" not in str(error):
                    raise
                if time.monotonic() > until:
                    raise UserError(
                        f"no machine of the cluster took the job within {self.start:g} seconds",
                        where=f"RAY_ADDRESS={self.address}",
                        todo="look at the log of the dashboard's agent on the cluster's head",
                    ) from error
                time.sleep(self.poll)
        log.info("%s[%s] is job %s", request.stage, request.partition, identity)
        return identity

    def _watched(self, client: Any, messages: Messages) -> Result | None:
        """The job's result, or None where it vanished. Ending this side ends the job."""
        try:
            return self._wait(client, messages)
        except BaseException:
            with contextlib.suppress(Exception):
                client.stop_job(messages.identity)
            raise

    def _wait(self, client: Any, messages: Messages) -> Result | None:
        beat, heard, answered = -1, time.monotonic(), time.monotonic()
        while True:
            # The result first: it counts whether or not the cluster still knows of the job.
            status = self._status(client, messages.identity)
            if (result := messages.result()) is not None:
                return result
            now = time.monotonic()
            if status is not None:
                answered = now
            if status in (_VANISHED, "SUCCEEDED", "FAILED"):
                return None
            if status == "STOPPED":
                raise UserError("its job was stopped on the cluster", where=messages.identity, todo="run it again")
            latest = messages.beat()
            if latest != beat or status == "PENDING":
                beat, heard = latest, now
            patience = self.silence if beat >= 0 else max(self.silence, self.start)
            if now - heard > patience or now - answered > self.silence:
                with contextlib.suppress(Exception):
                    client.stop_job(messages.identity)
                return None
            time.sleep(self.poll)

    def _status(self, client: Any, identity: str) -> str | None:
        """The job's state; None where the cluster does not answer just now."""
        try:
            return str(client.get_job_status(identity).value)
        except RuntimeError as error:
            return _VANISHED if "404" in str(error) or "does not exist" in str(error) else None
        except Exception:  # noqa: BLE001 - whatever the network does: the heartbeat decides
            return None

    def _tail(self, client: Any, identity: str) -> str:
        """The last line that its program wrote, or what the cluster says of a job without any."""
        try:
            lines = client.get_job_logs(identity).strip().splitlines()
            # Ray's own first line is buffered: what ends at once has written its lines before it.
            own = [
                line for line in lines if line.strip() and not line.startswith(f"Running entrypoint for job {identity}")
            ]
            last = own[-1] if own else client.get_job_info(identity).message or ""
        except Exception:  # noqa: BLE001 - a cluster that is gone has no logs
            return ""
        return f", which ended with: {last.strip()}" if last.strip() else ""
