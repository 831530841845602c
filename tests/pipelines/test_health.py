"""What is not well though no run failed is told once to a real webhook, and again only after it was well."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time
from dagster._daemon.freshness import FreshnessDaemon

from assets.gates import to_result, versions_check
from dinov2_core.gates.expectation import Outcome, error, warn
from dinov2_core.storage import Store
from pipelines import health, notices
from pipelines.automation import OVERDUE
from pipelines.definitions import build_defs
from pipelines.jobs import full_pipeline, recurate
from pipelines.resources.engine import Engine
from tests import toy_pipeline
from tests.pipelines.hook import Hook, alerts
from tests.pipelines.toy import Toy

HOSTILE = "<https://evil.example|click> ![](https://evil.example/t.png)"


class Looks:
    """One sensor, look after look, its cursor kept as the daemon keeps it."""

    def __init__(self, sensor: Any, toy: Toy) -> None:
        self.sensor, self.toy, self.cursor = sensor, toy, None

    def __call__(self) -> str:
        context = dg.build_sensor_context(instance=self.toy.instance, cursor=self.cursor, definitions=self.toy.defs)
        said = self.sensor._raw_fn(context, alerts=alerts())
        self.cursor = context.cursor
        return str(said.skip_message)


@pytest.fixture
def told(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Hook:
    monkeypatch.setenv("DINOV2_ALERT_WEBHOOK", hook.url)
    return hook


def judge_freshness(toy: Toy, now: dt.datetime) -> None:
    """What Dagster's daemon does every half minute, at a time of our choice."""
    context: Any = LoadingContextForTest(toy.instance)
    context.asset_graph = toy.defs.resolve_asset_graph()
    with freeze_time(now):
        asyncio.run(FreshnessDaemon()._evaluate_assets(SimpleNamespace(create_request_context=lambda: context)))


def test_an_overdue_asset_is_told_once_and_again_only_after_it_was_made(toy: Toy, told: Hook) -> None:
    look = Looks(health.overdue_assets, toy)
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    judge_freshness(toy, now)
    look()
    assert told.got == [], "what was never made is not judged"
    toy_pipeline.put(toy.folder, "b1", "1\n")
    assert toy.run().success
    for later, messages in ((0, 0), (7, 0), (9, 1), (10, 1), (16, 1)):
        judge_freshness(toy, now + later * day)
        look()
        look()
        assert len(told.got) == messages, f"day {later}"
    (message,) = told.got
    for words in (
        "curated_lvd [all]: is overdue",
        "warns after 8 days and fails after 15 days",
        "Launch the job recurate",
    ):
        assert words in message["text"]
    assert f"last looked after {now:%Y-%m-%d}" in message["text"]
    with freeze_time(now + 16 * day):
        assert toy.run().success
    judge_freshness(toy, now + 16 * day)
    look()
    assert len(told.got) == 1
    judge_freshness(toy, now + 32 * day)
    look()
    look()
    assert len(told.got) == 2, "it was looked after in between"
    assert OVERDUE.fail_window.to_timedelta() == 15 * day  # type: ignore[attr-defined]


@pytest.fixture
def checked(toy: Toy) -> tuple[Toy, dict[str, Any]]:
    """The toy pipeline with a check of ``raw_crawl`` whose outcome by batch is what ``outcome`` says."""
    outcome: dict[str, Any] = {}

    def judged(store: Store, versions: Mapping[str, str]) -> dg.AssetCheckResult:
        bad = [name for name in versions if name in outcome]
        expect = error if any(outcome[name] == "error" for name in bad) else warn
        parts = tuple(f"raw_crawl/{name}/numbers-00000.parquet" for name in bad)
        one = Outcome(expect("ExpectValuesToBeSmall", column="value"), not bad, 41, (f"b: {HOSTILE}",), parts)
        return to_result([one], rows=3, page=str(store.root))

    check = versions_check("raw_crawl", "numbers_table", "as the test says", judged)
    defs = build_defs(
        resources={"lake": toy.lake, "engine": Engine(workers=-1)},
        assets=toy_pipeline.assets(),
        checks=[check],
        jobs=(full_pipeline, recurate),
        sensors=(),
    )
    return Toy(toy.folder, toy.instance, toy.lake, defs), outcome


def test_a_check_that_warns_is_told_once_a_batch_and_again_only_after_it_passed(
    checked: tuple[Toy, dict[str, Any]], told: Hook
) -> None:
    toy, outcome = checked
    look = Looks(health.warning_checks, toy)
    for name in ("b1", "b2", "b3"):
        toy_pipeline.put(toy.folder, name, "1\n")
    assert toy.run().success
    look()
    assert told.got == []
    outcome["b2"] = "warn"
    made = toy.run()
    assert made.success, "a warning blocks nothing"
    look()
    look()
    (message,) = told.got
    for words in ("raw_crawl:numbers_table [b2]: the check warns", "ExpectValuesToBeSmall on value: 41", "To do: see "):
        assert words in message["text"]
    assert "evil" not in message["text"], "no chat is given what a page wrote"
    assert toy.run().success
    look()
    assert len(told.got) == 1, "another run, the same batch"
    outcome["b3"] = "warn"
    assert toy.run().success
    look()
    assert "numbers_table [b3]" in told.got[1]["text"], "another batch"
    outcome.clear()
    assert toy.run().success
    look()
    outcome["b2"] = "warn"
    assert toy.run(**{"dagster/partition": "b2"}).success
    look()
    look()
    assert len(told.got) == 3, "it passed in between"
    assert "[b2]" in told.got[2]["text"]


def test_a_check_that_blocks_is_the_failed_runs_to_tell(checked: tuple[Toy, dict[str, Any]], told: Hook) -> None:
    toy, outcome = checked
    look = Looks(health.warning_checks, toy)
    toy_pipeline.put(toy.folder, "b1", "1\n")
    outcome["b1"] = "error"
    assert not toy.run().success
    look()
    assert told.got == []
    for kind in ("warn", "error", "warn"):
        outcome["b1"] = kind
        assert toy.run().success is (kind == "warn")
        look()
    assert len(told.got) == 1, "it was not well in between"


def test_what_does_not_arrive_is_told_at_the_next_look_unless_it_is_well_by_then(
    checked: tuple[Toy, dict[str, Any]], told: Hook
) -> None:
    toy, outcome = checked
    look = Looks(health.warning_checks, toy)
    toy_pipeline.put(toy.folder, "b1", "1\n")
    outcome["b1"] = "warn"
    assert toy.run().success
    told.codes = [503, 503, 503]
    look()
    assert (len(told.got), told.codes) == (3, []), "three tries"
    look()
    assert len(told.got) == 4
    look()
    assert len(told.got) == 4
    outcome.clear()
    assert toy.run().success
    look()
    outcome["b1"] = "warn"
    assert toy.run().success
    told.codes = [403]
    look()
    outcome.clear()
    assert toy.run().success
    look()
    assert len(told.got) == 5, "what was refused is well now"


def test_the_state_takes_room_for_what_is_not_well_only(tmp_path: Path) -> None:
    class Takes(list[str]):
        def send(self, text: str) -> bool:
            self.append(text)
            return True

    kept, sent = notices.Notices(), Takes()
    many = [f"b{number:03d}" for number in range(40)]
    kept.seen("a", many, many, "x" * 5000)
    kept.seen("b", ["all"], [])
    assert kept.tell(sent) == 1
    (text,) = sent
    assert text.startswith("a [b000, b001, ")
    assert " and 30 more]: x" in text
    assert len(text) < 1200
    again = notices.Notices.from_json(kept.to_json())
    again.seen("a", many[:39], [])
    assert again.subjects["a"].told == ["b039"], "what was not looked at is as it was"
    again.seen("a", ["b039"], [])
    assert again.to_json() == "{}"
