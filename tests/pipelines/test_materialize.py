"""What a run's failure says: a line a failed step, or why it failed where no step did."""

from __future__ import annotations

from typing import Any

import dagster as dg

from pipelines.materialize import failures


@dg.resource
def gone(context: Any) -> None:
    raise OSError("the database is not there")


@dg.asset(required_resource_keys={"store"})
def table() -> None:
    """Never reached."""


def test_a_run_that_fails_outside_of_its_steps_says_why() -> None:
    result = dg.materialize([table], resources={"store": gone}, raise_on_error=False)
    assert not result.success
    (line,) = failures(result)
    assert "outside of its steps" in line
    assert "store" in line


def test_a_run_that_ended_well_has_nothing_to_say() -> None:
    assert failures(dg.materialize([table], resources={"store": dg.ResourceDefinition.none_resource()})) == []
