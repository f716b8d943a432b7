"""Times as the log has them, nanoseconds since 1970, for people to read."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc_time"]


def utc_time(nanoseconds: int) -> str:
    """RFC 3339 with all nine digits: ``2025-01-31T10:00:00.123456789Z``."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
