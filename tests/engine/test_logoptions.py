"""Docker's options for json-file: what they come to, and what is refused, in words that name the option."""

from __future__ import annotations

import pytest

from lading.engine.logoptions import parse_log_options
from lading.events.errors import Invalid


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (0, 0)),
        ({"max-size": "10m"}, (10_000_000, 1)),
        ({"max-size": "10m", "max-file": "3"}, (10_000_000, 3)),
        ({"max-size": "10M", "max-file": "03"}, (10_000_000, 3)),
        ({"max-size": "1.5k"}, (1500, 1)),
        ({"max-size": "123"}, (123, 1)),
        ({"max-size": "123b"}, (123, 1)),
        ({"max-size": "2 GB"}, (2_000_000_000, 1)),
        ({"max-size": "2kib"}, (2000, 1)),
        ({"max-file": "5"}, (0, 0)),
        ({"max-size": "1k", "max-file": "2", "compress": "true"}, (1000, 2)),
        ({"labels": "a", "env": "b", "tag": "c", "labels-regex": "d", "env-regex": "e"}, (0, 0)),
    ],
)
def test_options_come_to_a_size_and_a_number_of_files(config: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_log_options(config) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"max-size": value}
        for value in ("", "0", "0k", "-1", "1z", "k", "1e3", "1kk", "0x10", "\uff11k", "1" * 30, "999999p")
    ]
    + [{"max-file": value} for value in ("", "0", "-1", "1.5", "x", "\u0663", "9" * 30)]
    + [{"compress": "maybe"}, {"compress": "true"}, {"max-size": "1k", "compress": "1"}, {"mode": "blocking"}],
)
def test_what_docker_refuses_is_refused(config: dict[str, str]) -> None:
    with pytest.raises(Invalid) as refused:
        parse_log_options(config)
    assert list(config)[-1] in str(refused.value)
