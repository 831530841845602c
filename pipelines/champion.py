"""Who is champion, and the way back: ``python -m pipelines.champion [rollback]``, and the job of the same name.

The rules by which a model becomes champion are in ``assets/promotion.py``; the history in ``resources/champions.py``.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of ops as objects.
import argparse
import sys
import time
from collections.abc import Sequence

import dagster as dg

from dinov2_core.errors import UserError
from pipelines.resources.tracking import Tracking


class Rollback(dg.Config):
    """``to``: a registered version; the champion before the present one where left out. ``why``: for the record."""

    to: str = ""
    why: str = ""


def roll_back(tracking: Tracking, to: str = "", why: str = "") -> str:
    """Give the alias back and say so in a line.

    Raises:
        UserError: there is nothing to go back to, or the tracker does not answer.
    """
    before, now = tracking.champions(tracking.answering()).roll_back(to, why)
    return f"{tracking.model_name}: version {now} is champion again, instead of version {before}"


def history(tracking: Tracking) -> list[str]:
    """One line an entry, the newest first, and one for an alias that the history does not explain."""
    champions = tracking.champions(tracking.answering())
    held = champions.champion()
    lines = [f"{tracking.model_name}: " + (f"version {held.version} is champion" if held else "there is no champion")]
    for entry in reversed(champions.history()):
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at / 1000))
        lines.append(f"{at} UTC  {entry.kind:9}  {entry.before or '-':>4} → {entry.version:4}  {entry.why}")
    return lines


@dg.op(description="Makes the champion before the present one, or the version `to`, champion again.")
def go_back(context: dg.OpExecutionContext, config: Rollback, tracking: Tracking) -> None:
    """One move of the alias, on record with its reason."""
    try:
        said = roll_back(tracking, config.to, config.why or f"run {context.run_id}")
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(said)
    context.add_output_metadata({"champion": said})


@dg.job(name="rollback", description="One click back: the champion before the present one has the alias again.")
def rollback() -> None:
    """Needs no configuration; ``to`` and ``why`` can be given."""
    go_back()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the history, or roll back; one line and 1 where that fails."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.champion", description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb")
    back = verbs.add_parser("rollback", help="make the champion before the present one champion again")
    back.add_argument("--to", default="", metavar="VERSION", help="this version instead")
    back.add_argument("--why", default="", metavar="TEXT", help="for the record")
    options = parser.parse_args(arguments)
    tracking = Tracking.from_environment()
    try:
        if options.verb == "rollback":
            print(roll_back(tracking, options.to, options.why))
        else:
            print("\n".join(history(tracking)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
