"""A quiet console for runs in a terminal: one short line a message, Dagster's own events left to the UI."""

from __future__ import annotations

import logging
import sys
import time

import dagster as dg


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", None) or {}
        text = meta.get("orig_message") or record.getMessage()
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  {level}{text}"


@dg.logger(description="One short line a message, INFO and above.")
def short_console(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger that ``dagster`` calls ``console``, kept to what a person waits for."""
    log = logging.Logger("dinov2", level=logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Short())
    log.addHandler(handler)
    return log
