"""Messages to people: one JSON POST to a webhook (Slack, Mattermost and Teams read its ``text``).

The address is a secret. It comes from the environment variable, or from the file that ``VARIABLE_FILE`` names, and is
read when a message is sent: so it is in no configuration, and the web interface has nothing to show.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg

from dinov2_core.errors import UserError

log = logging.getLogger(__name__)
TRIES = 3
_TOO_MANY, _SERVER_ERROR = 429, 500


def secret(variable: str) -> str:
    """The value of an environment variable, or the content of the file that ``VARIABLE_FILE`` names; else empty.

    Raises:
        UserError: the file cannot be read.
    """
    if value := os.environ.get(variable):
        return value
    path = os.environ.get(f"{variable}_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(
            f"the secret's file cannot be read ({error.strerror})", where=f"{variable}_FILE", todo="check it"
        ) from error


class Alerts(dg.ConfigurableResource):
    """``variable``: the name (never the value) of the variable with the webhook's address."""

    variable: str = "DINOV2_ALERT_WEBHOOK"
    timeout_seconds: float = 10.0
    pause_seconds: float = 1.0

    def send(self, text: str) -> bool:
        """Send one message; False where no webhook is set or it did not take it. Never raises, never says where to."""
        try:
            url = secret(self.variable)
            if not url:
                return False
            if not url.startswith(("https://", "http://")):
                raise UserError("not an http address", where=self.variable, todo="give the webhook's URL")
            body = json.dumps({"text": text}).encode()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        except (UserError, ValueError) as error:
            # A malformed address is named by its variable only.
            log.warning("no alert: %s", error if isinstance(error, UserError) else f"{self.variable} is no address")
            return False
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_seconds):  # noqa: S310
                    return True
            except urllib.error.HTTPError as error:
                why = f"it answered {error.code}"
                if error.code != _TOO_MANY and error.code < _SERVER_ERROR:
                    break
            except OSError as error:
                why = f"not reachable ({type(error).__name__})"
            if attempt + 1 < TRIES:
                time.sleep(self.pause_seconds * 2**attempt)
        log.warning("an alert was not delivered to the webhook of %s: %s", self.variable, why)
        return False
