"""Points in the history, as people write them: a position of the log, or an instant.

A position is exact; an instant is what clocks said. Both name a point in one log, so whatever asks for "when"
takes either, and this is the one place that reads them. Only ASCII counts: a digit of another script, a sign, an
underscore or an exponent makes the text wrong, never another number.

The calendar is the Gregorian one without leap seconds, as Unix counts (23:59:60 is the second after it). A date
without an offset is UTC, whatever the machine's zone: the same words then mean the same point for everybody who
reads a log.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import attrs

from lading.events.errors import Invalid

__all__ = ["Instant", "Moment", "Position", "parse_moment", "utc_time"]

SECOND: Final = 10**9
FIRST_SECONDS: Final = 10**9
"""From here on a whole number is seconds since 1970 (2001-09-09 is the first); below, it is a position."""

_LAST: Final = 2**63 - 1
_DAY: Final = 86_400
_LONGEST: Final = 80
_WHY: Final = (
    "give a position (1200 or @1200), a date (2026-01-31, 2026-01-31 10:00, 2026-01-31T10:00:00.5+02:00; UTC if "
    "it names no offset), seconds since 1970 (1700000000.5), or how long ago (90s, 1h30m ago, 3 days ago, "
    "yesterday, now)"
)

_POSITION = re.compile(r"@?([0-9]{1,18})")
_SECONDS = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?")
_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r" ?(?:([Zz]|UTC)|([+-])([0-9]{2}):?([0-9]{2}))?)?"
)
_SPAN = re.compile(r"((?:[0-9]{1,12}(?:\.[0-9]{1,9})? ?[a-z]+ ?)+?)(?: ?ago)?")
_PART = re.compile(r"([0-9]+)(?:\.([0-9]+))? ?([a-z]+)")
_UNITS: Final = {
    name: length
    for length, names in (
        (SECOND // 1000, "ms"),
        (SECOND, "s sec secs second seconds"),
        (60 * SECOND, "m min mins minute minutes"),
        (3600 * SECOND, "h hr hrs hour hours"),
        (_DAY * SECOND, "d day days"),
        (7 * _DAY * SECOND, "w week weeks"),
    )
    for name in names.split()
}
_MONTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@attrs.frozen
class Position:
    """The point just after the record at ``position``; 0 is before the first."""

    position: int


@attrs.frozen
class Instant:
    """An instant, in nanoseconds since 1970, UTC. Up to it is what has its time or an earlier one."""

    time: int


Moment: TypeAlias = Position | Instant


def parse_moment(text: str, now: int) -> Moment:
    """``text`` as a point in the history; ``now`` is the present in nanoseconds UTC. ``Invalid`` if it is none.

    =============================  ====================================================================
    ``1200``, ``@1200``            the position; without the ``@`` only below a thousand million
    ``1700000000``, ``170.25``     seconds since 1970, up to nine decimals
    ``2026-01-31``                 that day's first instant
    ``2026-01-31 10:00``           RFC 3339, whose seconds may be left out, and the offset: then it is UTC
    ``2h ago``, ``1h30m``          so long before ``now``: ms, s, m, h, d, w and the words for them
    ``now``, ``today``,            ``now``; the first instant of this day, or of the one before, UTC
    ``yesterday``
    =============================  ====================================================================

    Instants lie from 1970 to 2262 (64 bits of nanoseconds).

    >>> parse_moment("90s ago", 100 * 10**9)
    Instant(time=10000000000)
    """
    words = text.strip(" ")
    if len(words) > _LONGEST or not words.isascii():
        raise Invalid("time", text, _WHY)
    position = _POSITION.fullmatch(words)
    if position is not None and (words[0] == "@" or int(position[1]) < FIRST_SECONDS):
        return Position(int(position[1]))
    time = _instant(words, now)
    if time is None:
        raise Invalid("time", text, _WHY)
    if not 0 <= time <= _LAST:
        raise Invalid("time", text, "it is not between 1970 and 2262; seconds since 1970 have ten digits today")
    return Instant(time)


def _instant(words: str, now: int) -> int | None:
    word = words.lower()
    if word == "now":
        return now
    if word in ("today", "yesterday"):
        return (now // SECOND // _DAY - (word == "yesterday")) * _DAY * SECOND
    if seconds := _SECONDS.fullmatch(words):
        return int(seconds[1]) * SECOND + _fraction(seconds[2], SECOND)
    if date := _DATE.fullmatch(words):
        return _calendar(date)
    if span := _SPAN.fullmatch(words):
        length = _span(span[1])
        return None if length is None else now - length
    return None


def _span(words: str) -> int | None:
    length = 0
    for whole, fraction, unit in _PART.findall(words):
        if unit not in _UNITS:
            return None
        length += int(whole) * _UNITS[unit] + _fraction(fraction, _UNITS[unit])
    return length


def _fraction(digits: str | None, unit: int) -> int:
    return int(digits) * unit // 10 ** len(digits) if digits else 0


def _calendar(date: re.Match[str]) -> int | None:
    year, month, day = int(date[1]), int(date[2]), int(date[3])
    hour, minute, second = int(date[4] or 0), int(date[5] or 0), int(date[6] or 0)
    offset = int(date[10] or 0) * 60 + int(date[11] or 0)
    fits = 1 <= month <= 12 and 1 <= day <= _MONTHS[month - 1] + (month == 2 and _leap(year))
    if not fits or hour > 23 or minute > 59 or second > 60 or int(date[10] or 0) > 23 or int(date[11] or 0) > 59:
        return None
    minutes = hour * 60 + minute - (offset if date[9] == "+" else -offset)
    seconds = _days(year, month, day) * _DAY + minutes * 60 + second
    return seconds * SECOND + _fraction(date[7], SECOND)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01, in years that begin in March, so that the leap day is the last of its year."""
    year -= month < 3
    before = (153 * ((month - 3) % 12) + 2) // 5
    return year * 365 + year // 4 - year // 100 + year // 400 + before + day - 1 - 719_468


def utc_time(time: int) -> str:
    """``time``, nanoseconds since 1970, in RFC 3339 with all nine digits: ``2025-01-31T10:00:00.123456789Z``."""
    seconds, rest = divmod(time, SECOND)
    days, seconds = divmod(seconds, _DAY)
    era, day = divmod(days + 719_468, 146_097)
    of_era = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * of_era + of_era // 4 - of_era // 100
    shifted = (5 * day + 2) // 153
    month = (shifted + 2) % 12 + 1
    year = era * 400 + of_era + (month < 3)
    date = f"{year:04}-{month:02}-{day - (153 * shifted + 2) // 5 + 1:02}"
    return f"{date}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:09}Z"
