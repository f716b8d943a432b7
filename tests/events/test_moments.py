"""Points in the history as people write them: each form means one thing, and nothing else is let through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lading.events.errors import Invalid
from lading.events.moments import FIRST_SECONDS, Instant, Position, parse_moment, utc_time

NOW = 1_769_853_600_123_456_789  # 2026-01-31T10:00:00.123456789Z
HOUR = 3600 * 10**9
DAY = 24 * HOUR
MIDNIGHT = NOW // DAY * DAY
LAST = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", Position(0)),
        ("1200", Position(1200)),
        (" 1200 ", Position(1200)),
        ("007", Position(7)),
        ("999999999", Position(999_999_999)),
        ("@1700000000", Position(1_700_000_000)),
        ("@0", Position(0)),
        ("1000000000", Instant(10**18)),
        ("1700000000", Instant(1_700_000_000 * 10**9)),
        ("1700000000.5", Instant(1_700_000_000_500_000_000)),
        ("0.000000001", Instant(1)),
        ("2026-01-31", Instant(MIDNIGHT)),
        ("2026-01-31 10:00", Instant(NOW // HOUR * HOUR)),
        ("2026-01-31T10:00", Instant(NOW // HOUR * HOUR)),
        ("2026-01-31T10:00:00.123456789Z", Instant(NOW)),
        ("2026-01-31t10:00:00.123456789z", Instant(NOW)),
        ("2026-01-31 12:00:00.123456789+02:00", Instant(NOW)),
        ("2026-01-31 04:30:00.123456789 -0530", Instant(NOW)),
        ("2026-01-31 10:00 UTC", Instant(NOW // HOUR * HOUR)),
        ("2024-02-29", Instant(1_709_164_800 * 10**9)),
        ("2016-12-31T23:59:60Z", Instant(1_483_228_800 * 10**9)),
        ("1970-01-01", Instant(0)),
        ("now", Instant(NOW)),
        ("NOW", Instant(NOW)),
        ("today", Instant(MIDNIGHT)),
        ("yesterday", Instant(MIDNIGHT - DAY)),
        ("2h ago", Instant(NOW - 2 * HOUR)),
        ("2h", Instant(NOW - 2 * HOUR)),
        ("0s", Instant(NOW)),
        ("90s ago", Instant(NOW - 90 * 10**9)),
        ("1h30m ago", Instant(NOW - 3 * HOUR // 2)),
        ("1h 30m ago", Instant(NOW - 3 * HOUR // 2)),
        ("1.5h", Instant(NOW - 3 * HOUR // 2)),
        ("3 days ago", Instant(NOW - 3 * DAY)),
        ("1 day 2 hours ago", Instant(NOW - DAY - 2 * HOUR)),
        ("2 weeks ago", Instant(NOW - 14 * DAY)),
        ("250ms ago", Instant(NOW - 250_000_000)),
        ("5min ago", Instant(NOW - 300 * 10**9)),
    ],
)
def test_each_form_means_one_point(text: str, moment: object) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-1", "+1", "1_000", "1e9", "0x10", "1.", ".5", "@", "@-1", "@1.5", "@1s", "1 2", "١٢", "１２"),
        *(
            "soon",
            "ago",
            "h ago",
            "2x ago",
            "2 ago",
            "2M",
            "2h ago ago",
            "2hago2h",
            "-2h",
            "2h\n",
            "\t2h",
            "1h,2m",
        ),
        *("2026-13-01", "2026-00-01", "2026-02-30", "2025-02-29", "1900-02-29", "2026-01-00", "26-01-01"),
        *(
            "2026-1-1",
            "2026-01-31T",
            "2026-01-31T10",
            "2026-01-31T24:00",
            "2026-01-31T10:60",
            "2026-01-31T10:00:61",
        ),
        *("2026-01-31T10:00:00.", "2026-01-31T10:00:00.1234567890", "2026-01-31T10:00+24:00", "2026-01-31+02:00"),
        *("2026-01-31T10:00+02:60", "2026-01-31T10:00+2", "2026-01-31  10:00", "2026-01-31T10:00 CET", "1" * 81),
    ],
)
def test_anything_else_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(Invalid, match="give a position") as refused:
        parse_moment(text, NOW)
    assert (refused.value.field, refused.value.value) == ("time", text)


@pytest.mark.parametrize("text", ["1969-12-31", "2263-01-01", "1700000000000", "9999999999.9", "9" * 12 + "w ago"])
def test_an_instant_that_no_record_can_have_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="between 1970 and 2262"):
        parse_moment(text, NOW)


@given(
    st.text(st.characters(max_codepoint=0x2FF), max_size=30) | st.text("0123456789-:.TZ+ @hmsdago", max_size=24)
)
@example("0" * 80)
@example("1" * 18 + "." + "9" * 9)
def test_whatever_is_written_gives_a_point_in_range_or_is_refused(text: str) -> None:
    """No text raises anything else, overflows, or costs more than a moment."""
    try:
        moment = parse_moment(text, NOW)
    except Invalid:
        return
    assert text.isascii()
    if isinstance(moment, Position):
        assert 0 <= moment.position < 10**18
    else:
        assert 0 <= moment.time <= LAST


@given(st.integers(0, LAST), st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_a_date_reads_as_python_reads_it(time: int, offset: int) -> None:
    zone = timezone(timedelta(minutes=offset))
    local = datetime.fromtimestamp(time // 10**9, UTC).astimezone(zone)
    shown = f"{local:%Y-%m-%dT%H:%M:%S}.{time % 10**9:09}{local.isoformat()[-6:]}"
    assert parse_moment(shown, NOW) == Instant(time)


@given(st.integers(-(2**63), 2**64))
def test_utc_time_is_pythons_and_is_read_back(time: int) -> None:
    seconds, rest = divmod(time, 10**9)
    assert utc_time(time) == f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
    if 0 <= time <= LAST:
        assert parse_moment(utc_time(time), NOW) == Instant(time)


@given(st.integers(0, 10**18 - 1))
def test_a_whole_number_is_a_position_below_the_bound_and_with_an_at_sign(number: int) -> None:
    assert parse_moment(f"@{number}", NOW) == Position(number)
    if number < FIRST_SECONDS:
        assert parse_moment(str(number), NOW) == Position(number)
    elif number * 10**9 <= LAST:
        assert parse_moment(str(number), NOW) == Instant(number * 10**9)


@given(st.integers(0, 999), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_span_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    length = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    for text in (
        f"{days}d{hours}h{minutes}m{seconds}s ago",
        f"{days} days {hours} hours {minutes}min {seconds} s",
    ):
        assert parse_moment(text, NOW) == Instant(NOW - length * 10**9)
