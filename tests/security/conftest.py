"""The toy pipeline's fixture, for every test here."""

from tests.pipelines.toy import toy  # noqa: F401
