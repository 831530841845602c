"""What a cluster's dashboard answers: too early for a submission, and what a job that died has to say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dinov2_core.errors import UserError
from dinov2_core.manifest import WHOLE
from dinov2_core.storage import Store
from pipelines.launchers.job_messages import Request
from pipelines.launchers.ray_job import RayJobs


class Client:
    """A dashboard that refuses the first ``late`` submissions with ``says``."""

    def __init__(self, late: int, says: str) -> None:
        self.late, self.says, self.asked = late, says, list[str]()

    logs, message = "", ""

    def get_job_logs(self, identity: str) -> str:
        return self.logs

    def get_job_info(self, identity: str) -> Any:
        return SimpleNamespace(message=self.message)

    def submit_job(self, **job: Any) -> None:
        self.asked.append(job["submission_id"])
        if len(self.asked) <= self.late:
            raise RuntimeError(f"Request failed with status code 500: {self.says}")


AGENTS = "No available agent to submit job, please try again later.."


def submit(client: Client, folder: Path, start: float) -> str:
    jobs = RayJobs("http://head:8265", poll=0.01, start=start)
    return jobs._submit(client, Store(str(folder)), Request(str(folder), "clusters", WHOLE))


def test_it_is_the_same_job_until_an_agent_takes_it(tmp_path: Path) -> None:
    client = Client(3, AGENTS)
    identity = submit(client, tmp_path, start=60)
    assert client.asked == [identity] * 4


def test_a_cluster_that_never_takes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"RAY_ADDRESS=http://head:8265: no machine .* took the job .* agent"):
        submit(Client(10**6, AGENTS), tmp_path, start=0.05)


def test_another_refusal_is_not_waited_for(tmp_path: Path) -> None:
    client = Client(1, "the entrypoint is too long")
    with pytest.raises(RuntimeError, match="too long"):
        submit(client, tmp_path, start=60)
    assert len(client.asked) == 1


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ("Running entrypoint for job a-1: python\nno module named x\n", ", which ended with: no module named x"),
        # A program that ends at once: Ray's line comes last.
        ("no module named x\nRunning entrypoint for job a-1: python\n", ", which ended with: no module named x"),
        ("Running entrypoint for job a-1: python\n", ", which ended with: it was killed"),
        ("", ", which ended with: it was killed"),
    ],
)
def test_the_last_line_of_a_job_is_its_own_and_not_the_clusters(logs: str, said: str) -> None:
    client = Client(0, "")
    client.logs, client.message = logs, "it was killed"
    assert RayJobs("http://head:8265")._tail(client, "a-1") == said


def test_a_job_that_left_nothing_adds_nothing() -> None:
    assert RayJobs("http://head:8265")._tail(Client(0, ""), "a-1") == ""
    assert RayJobs("http://head:8265")._tail(object(), "a-1") == "", "a cluster that is gone"
