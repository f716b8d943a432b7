"""Signal names as Docker's clients write them."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.events.errors import Invalid
from lading.events.signals import check_signal, signal_number


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [
        ("TERM", "SIGTERM", 15),
        ("SIGTERM", "SIGTERM", 15),
        ("sigterm", "SIGTERM", 15),
        ("term", "SIGTERM", 15),
        ("15", "SIGTERM", 15),
        ("015", "SIGTERM", 15),
        ("9", "SIGKILL", 9),
        ("CLD", "SIGCHLD", 17),
        ("POLL", "SIGIO", 29),
        ("1", "SIGHUP", 1),
        ("RTMIN", "SIGRTMIN", 34),
        ("34", "SIGRTMIN", 34),
        ("SIGRTMIN+3", "37", 37),
        ("rtmax-1", "63", 63),
        ("RTMAX", "SIGRTMAX", 64),
        ("RTMIN+30", "SIGRTMAX", 64),
        ("RTMAX-30", "SIGRTMIN", 34),
        ("64", "SIGRTMAX", 64),
    ],
)
def test_spellings_of_one_signal_have_one_name(text: str, name: str, number: int) -> None:
    assert signal_number(text) == number
    assert check_signal(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "65", "999", "1000", "-1", "+9", " 9", "9 ", "9\n", "TERM\n", "SIG", "SIG15", "SIGSIGTERM"),
        *("SIG_IGN", "RTMIN+", "RTMIN+31", "RTMIN+300", "RTMID", "٩", "９", "1.0", "0x9", "SIGTERM,SIGKILL"),
    ],
)
def test_what_is_not_a_signal_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="give a name such as SIGTERM or a number from 1 to 64") as refused:
        check_signal(text)
    assert refused.value.value == text


@pytest.mark.parametrize("text", ["RTMIN-1", "RTMAX-31", "RTMAX-55", "RTMAX+1"])
def test_a_real_time_name_never_means_another_kind_of_signal(text: str) -> None:
    """``RTMAX-55`` would be SIGKILL."""
    with pytest.raises(Invalid, match="invalid signal"):
        signal_number(text)


@pytest.mark.parametrize("text", ["ſigterm", "sıgterm"])
def test_letters_of_other_scripts_are_not_letters_of_a_signal(text: str) -> None:
    """``str.upper`` turns both into SIGTERM."""
    with pytest.raises(Invalid, match="invalid signal"):
        signal_number(text)


@given(st.integers(1, 64))
def test_the_canonical_name_means_the_same_signal(number: int) -> None:
    name = check_signal(str(number))
    assert signal_number(name) == number
    assert check_signal(name) == name


@given(st.sampled_from(sorted(signal.Signals.__members__)), st.booleans(), st.booleans())
def test_every_name_the_host_knows_is_known(name: str, short: bool, lower: bool) -> None:
    text = name.removeprefix("SIG") if short else name
    assert signal_number(text.lower() if lower else text) == signal.Signals[name]


@given(st.text(max_size=12))
def test_any_text_is_a_signal_or_invalid(text: str) -> None:
    try:
        number = signal_number(text)
    except Invalid:
        return
    assert 1 <= number <= 64
