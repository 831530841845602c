"""Sends spools to MLflow: in order, each value once, whoever sends and however often it is tried.

Values are told apart by metric and step: a resumed training repeats steps, and what the run has already is not sent
again. What a spool is, is in ``mlflow_spool.py``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.resources.mlflow_spool import Record, Spool, read

log = logging.getLogger(__name__)
BATCH = 1000
"""Metrics a request, the most that MLflow takes."""
BACKOFF = 60.0
"""The longest pause, in seconds, between two tries while the tracker is gone."""


class ParentUnsentError(Exception):
    """A training waits for the one that it is part of, which somebody else is sending just now."""


def send_all(deliveries: Iterable[Delivery]) -> None:
    """Send each; those that wait for another once more after the others.

    Raises:
        ParentUnsentError: what one waits for is not among them; and whatever MLflow raises.
    """
    left = list(deliveries)
    while left:
        late, last = [], None
        for one in left:
            try:
                one.send()
            except ParentUnsentError as error:
                late.append(one)
                last = error
        if last is not None and len(late) == len(left):
            raise last
        left = late


@dataclass
class Delivery:
    """The sending of one spool. ``experiment`` gives the id of the experiment, made where it is new."""

    spool: Spool
    client: Any
    experiment: Callable[[], str]
    run: Any = field(default=None, init=False)
    steps: dict[str, int] = field(default_factory=dict, init=False)
    """the last step that the run has of each metric"""

    def send(self) -> None:
        """Send all there is; raises what MLflow raises, and then goes on from there when it is called again.

        A spool that has ended and is sent is removed. Does nothing while another process sends the same one.
        """
        path = self.spool.path
        if not path.exists():
            return
        with open(path.with_suffix(".sent"), "a+b") as sent:
            try:
                fcntl.flock(sent, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            try:
                last = self._send_from(_offset(sent), sent)
            except Exception:
                # What of a batch has arrived is for the run to say.
                self.run = None
                raise
            if last == "end" or (last is None and self._ended()):
                self._remove()

    def _send_from(self, start: int, sent: Any) -> str | None:
        """Send the records behind ``start``; the kind of the last one."""
        pending: list[Any] = []
        kind = None
        for record, offset in read(self.spool.path, start):
            kind = record["kind"]
            if kind == "metrics":
                pending += self._new(record)
                if len(pending) < BATCH:
                    start = offset
                    continue
            self._log_metrics(pending)
            pending = []
            if kind != "metrics":
                _give_up_on_nonsense(self._other, record)
            start = offset
            _note(sent, start)
        self._log_metrics(pending)
        _note(sent, start)
        return kind

    def _log_metrics(self, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), BATCH):
            batch = metrics[start : start + BATCH]
            if not _give_up_on_nonsense(self.client.log_batch, self.run.info.run_id, metrics=batch):
                # One that it will not take takes the whole batch down.
                for one in batch if len(batch) > 1 else ():
                    _give_up_on_nonsense(self.client.log_batch, self.run.info.run_id, metrics=[one])

    def _new(self, record: Record) -> list[Any]:
        """The values of a record that the run does not have."""
        from mlflow.entities import Metric

        if self.run is None:
            self._attach()
        step = record["step"]
        if step is None:
            # Measured by the clock: seconds since the run began, on whatever machine it goes on.
            step = max(0, (record["at"] - self.run.info.start_time) // 1000)
        found = []
        for key, value in record["values"].items():
            name = metric_key(key)
            if step > self.steps.get(name, -1):
                self.steps[name] = step
                found.append(Metric(name, value, record["at"], step))
        return found

    def _other(self, record: Record) -> None:
        kind = record["kind"]
        if kind == "begin":
            self._begin(record)
            return
        if self.run is None:
            self._attach()
        run_id = self.run.info.run_id
        if kind == "params":
            _give_up_on_nonsense(self._log_params, run_id, record["values"])
        elif kind == "text":
            self.client.log_text(run_id, record["text"], record["path"])
        elif kind == "folder":
            kept = self.spool.files / record["name"]
            if kept.is_dir():
                self.client.log_artifacts(run_id, str(kept), record["to"])
                shutil.rmtree(kept, ignore_errors=True)
        elif kind == "end":
            self.client.set_terminated(run_id, record["status"], record["at"])

    def _begin(self, record: Record) -> None:
        tags = {"stage": record["stage"], "fingerprint": record["fingerprint"], **record["tags"]}
        if record["parent"]:
            parent = find_run(self.client, self.experiment(), *record["parent"])
            if parent is None and Spool(self.spool.folder, *record["parent"]).path.exists():
                raise ParentUnsentError(f"the run that {record['stage']} is part of has not been begun yet")
            if parent is not None:
                tags["mlflow.parentRunId"] = parent.info.run_id
        self.run = find_run(self.client, self.experiment(), record["stage"], record["fingerprint"])
        if self.run is None:
            self.run = self.client.create_run(
                self.experiment(), start_time=record["at"], run_name=record["name"], tags=tags
            )
        else:
            for key, value in tags.items():
                self.client.set_tag(self.run.info.run_id, key, value)
            self.client.update_run(self.run.info.run_id, status="RUNNING")
        self._know_steps()
        self._log_inputs(record["inputs"])
        _give_up_on_nonsense(self._log_params, self.run.info.run_id, record["params"])

    def _attach(self) -> None:
        """Go on with the run of a spool whose beginning has been sent."""
        self.run = find_run(self.client, self.experiment(), self.spool.stage, self.spool.fingerprint)
        if self.run is not None:
            self._know_steps()
            return
        # Somebody has deleted the run, or this is another server: begin again.
        begin = next(r for r, _ in read(self.spool.path) if r["kind"] == "begin")
        self._begin(begin)

    def _know_steps(self) -> None:
        found = self.client.get_run(self.run.info.run_id)
        # The public dictionary of metrics leaves out their steps.
        self.steps = {m.key: m.step for m in found.data._metric_objs}

    def _log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in values.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])

    def _log_inputs(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        sets = [
            DatasetInput(
                Dataset(name=key, digest=one["manifest"][:36], source_type="manifest", source=json.dumps(dict(one))),
                [InputTag("mlflow.data.context", "training"), InputTag("manifest", one["manifest"])],
            )
            for key, one in inputs.items()
        ]
        if sets:
            self.client.log_inputs(self.run.info.run_id, sets)

    def _ended(self) -> bool:
        last = None
        for record, _ in read(self.spool.path):
            last = record["kind"]
        return last == "end"

    def _remove(self) -> None:
        path = self.spool.path
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # the training has begun again
            path.unlink()
            shutil.rmtree(self.spool.files, ignore_errors=True)
            path.with_suffix(".sent").unlink(missing_ok=True)


class Courier:
    """A thread that sends while a training runs: every ``every`` seconds, less often while the tracker is gone."""

    def __init__(self, send: Callable[[], None], tick: Callable[[], None], every: float) -> None:
        self._send, self._tick, self._every = send, tick, every
        self._closing = threading.Event()
        self._complained = False
        self._deadline = 0.0
        self.delivered = False
        """whether the last try sent all there was"""
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def close(self, patience: float) -> bool:
        """Send what is left, for at most ``patience`` seconds; whether all was sent."""
        self._deadline = time.monotonic() + patience
        self._closing.set()
        self._thread.join(patience)
        return not self._thread.is_alive() and self.delivered

    def _work(self) -> None:
        pause = self._every
        next_try = 0.0
        while not self._closing.wait(self._every):
            self._tick()
            if time.monotonic() >= next_try:
                self.delivered = self._try()
                pause = self._every if self.delivered else min(2 * pause, BACKOFF)
                next_try = 0.0 if self.delivered else time.monotonic() + pause * random.uniform(0.5, 1)  # noqa: S311
        self.delivered = self._try()
        while not self.delivered and time.monotonic() < self._deadline:
            time.sleep(min(1.0, self._every))
            self.delivered = self._try()

    def _try(self) -> bool:
        try:
            self._send()
        except Exception as error:  # noqa: BLE001 - whatever tracking raises, training goes on
            if not self._complained:
                self._complained = True
                log.warning("tracking is down (%s); what is to be tracked waits on disk", _one_line(error))
            return False
        self._complained = False
        return True


def find_run(client: Any, experiment_id: str, stage: str, fingerprint: str) -> Any | None:
    """The run of this very training, where one was begun."""
    wanted = f"tags.stage = '{stage}' and tags.fingerprint = '{fingerprint}'"
    # The oldest, should there ever be two: all then go on in the same one.
    found = client.search_runs([experiment_id], wanted, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0] if found else None


def metric_key(name: str) -> str:
    """A metric's name in the characters that MLflow takes."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def _give_up_on_nonsense(call: Callable[..., Any], *args: Any, **rest: Any) -> bool:
    """Call; what MLflow will never take is dropped, or it would hold up all that comes after it: False then."""
    from mlflow.exceptions import MlflowException

    try:
        call(*args, **rest)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        log.warning("the tracker refuses a record, which is dropped: %s", _one_line(error))
        return False
    return True


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _offset(sent: Any) -> int:
    sent.seek(0)
    text = sent.read()
    # A number cut short would lie before the truth; sending twice is harmless, but only from the start of a line.
    return int(text) if text.endswith(b"\n") else 0


def _note(sent: Any, offset: int) -> None:
    sent.seek(0)
    sent.truncate()
    sent.write(b"%d\n" % offset)
    sent.flush()
