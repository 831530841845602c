"""Who is champion: one history that all agree on, whoever dies in between, and a way back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from assets.promotion import Verdict
from dinov2_core.errors import UserError
from pipelines.resources.champions import Champions, Entry, counting, earlier
from tests.pipelines.tracker import tracker

YES = Verdict(True, "better")


def entry(number: int, after: int, version: str = "1", kind: str = "promotion", before: str = "") -> Entry:
    return Entry(number, version, before, after, kind, "", str(number), True, 0)


def test_an_entry_counts_if_it_names_the_last_one_that_counts() -> None:
    found = counting([entry(3, after=1), entry(1, after=0), entry(2, after=0), entry(4, after=2), entry(5, after=3)])
    assert [one.number for one in found] == [1, 3, 5]


def test_the_champion_before_leaves_out_those_that_were_taken_back() -> None:
    history = [entry(1, 0, "1"), entry(2, 1, "2", before="1"), entry(3, 2, "3", before="2")]
    assert earlier(history, "3") == "2"
    history.append(entry(4, 3, "2", "rollback", before="3"))
    assert earlier(history, "2") == "1"
    history.append(entry(5, 4, "7", before="2"))
    assert earlier(history, "7") == "2"
    assert earlier([], "1") == ""
    assert earlier([entry(1, 0, "2", before="1")], "2") == "1", "an alias older than the history"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tracker(tmp_path_factory.mktemp("champions")).client()


@pytest.fixture
def champions(client: Any, request: pytest.FixtureRequest) -> Champions:
    """A registered model of its own, with four versions."""
    name = f"m{abs(hash(request.node.name))}"
    client.create_registered_model(name)
    for _ in range(4):
        client.create_model_version(name, source="file:///nowhere")
    return Champions(client, name)


def holder(champions: Champions) -> str:
    found = champions.champion()
    return "" if found is None else str(found.version)


def test_a_promotion_moves_the_alias_and_is_on_record(champions: Champions) -> None:
    assert holder(champions) == ""
    assert champions.promote("1", lambda held: YES).promote
    assert champions.promote("3", lambda held: Verdict(held.version == "1" or held.version == 1, "better")).promote
    assert holder(champions) == "3"
    assert [(e.version, e.before, e.kind, e.why) for e in champions.history()] == [
        ("1", "", "promotion", "better"),
        ("3", "1", "promotion", "better"),
    ]


def test_a_refused_candidate_leaves_no_trace(champions: Champions) -> None:
    champions.promote("1", lambda held: YES)
    assert champions.promote("2", lambda held: Verdict(False, "worse")).reason == "worse"
    assert holder(champions) == "1"
    assert len(champions.history()) == 1


def test_the_champion_is_not_entered_again(champions: Champions) -> None:
    for _ in range(2):
        champions.promote("1", lambda held: YES)
    assert len(champions.history()) == 1


def test_rolling_back_gives_the_alias_to_the_champion_before_and_marks_the_other(champions: Champions) -> None:
    for version in ("1", "2", "3"):
        champions.promote(version, lambda held: YES)
    assert champions.roll_back(why="wrong on snow") == ("3", "2")
    assert holder(champions) == "2"
    assert champions.client.get_model_version(champions.name, "3").tags["rolled_back"] == "wrong on snow"
    assert champions.roll_back() == ("2", "1")
    with pytest.raises(UserError, match="no champion came before version 1"):
        champions.roll_back()
    assert champions.roll_back(to="3", why="it was the data") == ("1", "3")
    assert "rolled_back" not in champions.client.get_model_version(champions.name, "3").tags


def test_what_cannot_be_rolled_back_to_is_said(champions: Champions) -> None:
    with pytest.raises(UserError, match="there is no champion"):
        champions.roll_back()
    champions.promote("1", lambda held: YES)
    with pytest.raises(UserError, match="there is no version 9"):
        champions.roll_back(to="9")
    with pytest.raises(UserError, match="is champion already"):
        champions.roll_back(to="1")


def test_of_two_that_judged_the_same_champion_one_wins_and_the_other_is_judged_again(champions: Champions) -> None:
    both, seen = threading.Barrier(2), []

    def judge(version: str) -> Any:
        def body(held: Any) -> Verdict:
            before = "" if held is None else str(held.version)
            seen.append((version, before))
            if not before:
                both.wait(30)  # both have seen that there is no champion before either enters
            return Verdict(int(version) > int(before or 0), f"{version} against {before or 'none'}")

        return body

    threads = [threading.Thread(target=champions.promote, args=(v, judge(v))) for v in ("2", "3")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    history = champions.history()
    assert holder(champions) == "3", "the better one, whoever was first"
    assert len(seen) == 3, "one of them was judged twice, the second time against the other"
    assert [e.before for e in history] == ["", *(e.version for e in history[:-1])]


def test_many_at_once_leave_one_history_in_which_each_beat_the_one_before(champions: Champions) -> None:
    def better(version: str) -> Any:
        return lambda held: Verdict(held is None or int(version) > int(held.version), "better")

    threads = [threading.Thread(target=champions.promote, args=(v, better(v))) for v in ("1", "2", "3", "4")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    order = [int(e.version) for e in champions.history()]
    assert order == sorted(set(order))
    assert holder(champions) == "4"


def test_an_alias_that_an_overtaken_writer_has_put_back_for_a_moment_is_not_who_has_to_be_beaten(
    champions: Champions,
) -> None:
    champions.promote("2", lambda held: YES)
    champions.promote("4", lambda held: YES)
    champions.client.set_registered_model_alias(champions.name, "champion", "2")
    mends = threading.Timer(0.3, champions.client.set_registered_model_alias, (champions.name, "champion", "4"))
    mends.start()
    verdict = champions.promote("3", lambda held: Verdict(int(held.version) < 3, f"against {held.version}"))
    mends.join()
    assert verdict.reason == "against 4"
    assert holder(champions) == "4"


def test_a_winner_that_died_before_it_set_the_alias_is_champion_all_the_same(
    champions: Champions, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions.promote("1", lambda held: YES)
    with monkeypatch.context() as dead:
        dead.setattr(Champions, "_settle", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            champions.promote("2", lambda held: YES)
    assert str(champions.client.get_model_version_by_alias(champions.name, "champion").version) == "1"
    assert holder(champions) == "2"
    assert champions.roll_back() == ("2", "1")


def test_who_was_overtaken_while_setting_the_alias_puts_the_later_champion_back(
    champions: Champions, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_alias = champions.client.set_registered_model_alias
    overtaken = []

    def slow(name: str, alias: str, version: str) -> None:
        if not overtaken:
            overtaken.append(version)
            champions.promote("2", lambda held: YES)
        set_alias(name, alias, version)

    monkeypatch.setattr(champions.client, "set_registered_model_alias", slow)
    champions.promote("1", lambda held: YES)
    assert overtaken == ["1"]
    assert str(champions.client.get_model_version_by_alias(champions.name, "champion").version) == "2"


def test_an_alias_that_a_person_moved_is_respected(champions: Champions) -> None:
    champions.promote("1", lambda held: YES)
    champions.client.set_registered_model_alias(champions.name, "champion", "4")
    assert holder(champions) == "4"
    champions.promote("2", lambda held: YES)
    assert champions.history()[-1].before == "4"
    assert champions.roll_back() == ("2", "4")


def test_a_lost_answer_is_looked_up_in_the_history(champions: Champions, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    create = champions.client.create_model_version

    def lost(name: str, **rest: Any) -> None:
        create(name, **rest)
        raise MlflowException("connection reset")

    monkeypatch.setattr(champions.client, "create_model_version", lost)
    champions.promote("1", lambda held: YES)
    assert holder(champions) == "1"
    assert len(champions.history()) == 1


def test_the_history_is_the_registrys_second_model(champions: Champions, tmp_path: Path) -> None:
    champions.promote("2", lambda held: YES)
    (made,) = champions.client.search_model_versions(f"name = '{champions.name}.champions'")
    assert made.source == f"models:/{champions.name}/2"
    assert made.tags["settled"] == "true"
