"""Shard functions on a Ray cluster: the same functions and results as with local processes.

A shard goes to a worker as a reference and comes back as a small row; its output and its done-marker are on storage
before the row leaves. So whatever dies (worker, machine, this program), no more is lost than the shards that were
running. Only few shards are given out at a time, however many there are. A worker that dies, or a shard that raises,
is tried again elsewhere; a shard that keeps failing is set aside with its reason while the rest completes. When no
shard is left to give out, one that takes far longer than the others is given to a second worker, and the first result
counts: shard functions are idempotent.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.shard_map import QuarantineError, Resources, ShardFunction, Summary, Task
from pipelines.engines import ray_pool
from pipelines.engines.ray_pool import Flight, Member, Pool
from pipelines.engines.ray_worker import Outcome

log = logging.getLogger(__name__)
_SHORT = 1.0
"""Shards that take fewer seconds than this wait two deep at a worker, so that it never waits for the program."""
_REMEMBERED = 100
_STARTS = 5
"""Workers in a row that may fail to start, for other reasons than memory."""
_PAUSE = 5.0
"""Seconds before another worker is started after one did not."""
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class RayShardMap:
    """Runs tasks on the cluster at ``address``; see the head of this module.

    Args:
        workers: how many; 0 takes what the machines have cores and GPUs for, and follows as machines come and go.
        retries: how often a shard is tried again that raised or whose worker died.
        give_up_after: the shards set aside that end the whole map: so many are no accident.
        straggler: a shard is given to a second worker once it takes this many times the median, and ``patience``
            seconds.
        timeout: seconds after which a shard's worker is ended and the shard counts as failed; 0 waits for ever.
    """

    address: str = "auto"
    workers: int = 0
    retries: int = 2
    give_up_after: int = 10
    straggler: float = 3.0
    patience: float = 10.0
    timeout: float = 0.0

    def map(
        self, function: ShardFunction, tasks: Sequence[Task], *, resources: Resources = Resources()
    ) -> Iterator[tuple[int, Summary]]:
        if not tasks:
            return
        ray_pool.connect(self.address)
        yield from _Map(self, ray_pool.pool_for(resources), function, tasks).results()


class _Map:
    """One map that is going on."""

    def __init__(self, settings: RayShardMap, pool: Pool, function: ShardFunction, tasks: Sequence[Task]) -> None:
        self.settings, self.pool, self.function, self.tasks = settings, pool, function, tasks
        self.waiting = deque(range(len(tasks)))
        self.open = set(self.waiting)
        self.failed: Counter[int] = Counter()
        self.reasons: dict[int, str] = {}
        self.errors: dict[int, UserError] = {}
        self.twice: set[int] = set()
        self.seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self.said = time.monotonic()
        self.unborn = 0

    def results(self) -> Iterator[tuple[int, Summary]]:
        try:
            while self.open:
                self.pool.keep_up(self.settings.workers, len(self.open))
                self._give_out()
                self._give_again()
                yield from self._collect()
                self._end_overdue()
                self._say_what_is_waited_for()
                if len(self.reasons) >= self.settings.give_up_after:
                    break
        finally:
            # What still runs is a second copy, or nobody waits for it any more.
            for member in [m for m in self.pool.members if m.flights]:
                self.pool.drop(member)
        self._report()

    def _give_out(self) -> None:
        depth = 2 if self.seconds and statistics.median(self.seconds) < _SHORT else 1
        for level in range(1, depth + 1):
            for member in self.pool.members:
                if self.waiting and member.up and len(member.flights) < level:
                    self._send(member, self.waiting.popleft())

    def _send(self, member: Member, index: int) -> None:
        ref = member.handle.run.remote(self.function, dict(self.tasks[index]))
        member.flights.append(Flight(index, ref, time.monotonic()))

    def _give_again(self) -> None:
        """Give what takes too long to a second worker, where one has nothing else to do."""
        if self.waiting or not self.seconds:
            return
        idle = [m for m in self.pool.members if m.up and not m.flights]
        limit = max(self.settings.patience, self.settings.straggler * statistics.median(self.seconds))
        for member in [m for m in self.pool.members if m.flights]:
            if time.monotonic() - member.flights[0].began <= limit:
                continue
            # What waits behind it would wait as long.
            for flight in member.flights:
                if idle and flight.index in self.open and flight.index not in self.twice:
                    log.warning("shard %s takes long; a second worker tries it too", self._key(flight.index))
                    self.twice.add(flight.index)
                    self._send(idle.pop(), flight.index)

    def _collect(self) -> Iterator[tuple[int, Summary]]:
        import ray

        owner: dict[Any, Member] = {}
        for member in self.pool.members:
            owner.update({f.ref: member for f in member.flights} if member.up else {member.born: member})
        if not owner:
            time.sleep(0.1)
            return
        refs = list(owner)
        if ray.wait(refs, num_returns=1, timeout=0.5)[0]:
            # In the order they were given: a worker's first shard is settled before its second.
            ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
            for ref in [ref for ref in refs if ref in ready]:
                if owner[ref] in self.pool.members:
                    yield from self._settle(owner[ref], ref)

    def _settle(self, member: Member, ref: Any) -> Iterator[tuple[int, Summary]]:
        import ray

        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            # The worker lives, but could not read what it was sent: code that its machine does not have.
            answer = Outcome(failure=str(error).strip().splitlines()[-1])
        except ray.exceptions.RayError as error:
            self._lost(member, _reason(error))
            return
        if ref == member.born:
            member.up, self.unborn = True, 0
            return
        flight = member.flights.pop(0)
        now = time.monotonic()
        self.seconds.append(now - flight.began)
        if member.flights:
            member.flights[0].began = now
        if flight.index not in self.open:
            return
        if answer.summary is not None:
            self.open.discard(flight.index)
            yield flight.index, answer.summary
        else:
            self._failed(flight.index, answer)

    def _lost(self, member: Member, reason: str) -> None:
        flights = member.flights
        self.pool.drop(member)
        if not member.up:
            self._not_started(reason)
            return
        for position, flight in enumerate(flights):
            if position == 0:
                log.warning("the worker of shard %s died: %s", self._key(flight.index), reason)
                self._failed(flight.index, Outcome(failure=f"its worker died: {reason}"))
            elif flight.index in self.open:
                self.waiting.appendleft(flight.index)

    def _not_started(self, reason: str) -> None:
        log.warning("a worker did not start: %s", reason)
        # A machine short of memory will have some again; one without the code will not get it.
        self.unborn += reason != OUT_OF_MEMORY
        self.pool.pause(_PAUSE)
        if self.unborn >= _STARTS:
            raise UserError(
                f"workers do not start on the cluster: {reason}",
                where=f"RAY_ADDRESS={self.settings.address}",
                todo="the machines need this code and the same packages as this program",
            )

    def _failed(self, index: int, outcome: Outcome) -> None:
        if index not in self.open or index in self.waiting:
            return
        self.failed[index] += 1
        # A mistake in the settings is the same next time; a damaged file may be a damaged read.
        final = outcome.error is not None and not isinstance(outcome.error, DamagedDataError)
        if final or self.failed[index] > self.settings.retries:
            self.open.discard(index)
            self.reasons[index] = str(outcome.error) if outcome.error else outcome.failure
            if outcome.error is not None:
                self.errors[index] = outcome.error
            log.warning("shard %s is set aside: %s\n%s", self._key(index), self.reasons[index], outcome.trace)
        elif not any(f.index == index for m in self.pool.members for f in m.flights):
            self.twice.discard(index)
            self.waiting.append(index)

    def _end_overdue(self) -> None:
        if not self.settings.timeout:
            return
        for member in [m for m in self.pool.members if m.flights]:
            if time.monotonic() - member.flights[0].began > self.settings.timeout:
                self._lost(member, f"no result after {self.settings.timeout:g} s")

    def _say_what_is_waited_for(self) -> None:
        now = time.monotonic()
        if any(m.up for m in self.pool.members):
            self.said = now
        elif now - self.said > 60:
            self.said = now
            needs = self.pool.needs
            log.warning(
                "no worker has started: the cluster has no room for %g CPUs and %g GPUs", needs.cpus, needs.gpus
            )

    def _report(self) -> None:
        if not self.reasons:
            return
        if len(self.errors) == len(self.reasons) and len({str(e) for e in self.errors.values()}) == 1:
            raise next(iter(self.errors.values()))
        reasons = {self._key(index): reason for index, reason in sorted(self.reasons.items())}
        raise QuarantineError.of(reasons, left=len(self.open))

    def _key(self, index: int) -> str:
        return str(self.tasks[index].get("key", index))


def _reason(error: BaseException) -> str:
    text = str(error)
    if "memory" in text.lower() and ("oom" in text.lower() or "out of memory" in text.lower()):
        return OUT_OF_MEMORY
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
