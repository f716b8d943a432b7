"""The API's pure parts: Docker's words for times, changes of an import, and name filters."""

from __future__ import annotations

import pytest

from lading.engine.api.listing import name_fits
from lading.engine.api.words import human_duration, instant, parse_instant, stamp
from lading.events.dockerfilechanges import apply_changes
from lading.events.errors import Invalid
from lading.events.image import ImageConfig

SECOND = 10**9
HOUR = 3600 * SECOND


@pytest.mark.parametrize(
    ("nanoseconds", "words"),
    [
        (-5 * SECOND, "Less than a second"),
        (0, "Less than a second"),
        (SECOND, "1 second"),
        (59 * SECOND, "59 seconds"),
        (60 * SECOND, "About a minute"),
        (120 * SECOND, "2 minutes"),
        (3599 * SECOND, "59 minutes"),
        (HOUR, "About an hour"),
        (int(1.5 * HOUR), "2 hours"),
        (47 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (14 * 24 * HOUR, "2 weeks"),
        (60 * 24 * HOUR, "2 months"),
        (730 * 24 * HOUR, "2 years"),
    ],
)
def test_durations_are_said_as_docker_says_them(nanoseconds: int, words: str) -> None:
    assert human_duration(nanoseconds) == words


def test_instants_are_rfc_3339_with_every_nanosecond() -> None:
    assert instant(0) == "0001-01-01T00:00:00Z"
    assert instant(1_700_000_000 * SECOND) == "2023-11-14T22:13:20Z"
    assert instant(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert stamp(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("", 0), ("0", 0), ("-1", 0), ("12", 12 * SECOND), ("1.5", 1_500_000_000), ("1.0000000019", SECOND + 1)],
)
def test_unix_times_have_up_to_nine_decimals(text: str, nanoseconds: int) -> None:
    assert parse_instant(text, "since") == nanoseconds


@pytest.mark.parametrize("text", ["x", "1e9", "1.-5", "١", "9" * 30, "1\n", "2023-11-14T22:13:20Z", " 1"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="since"):
        parse_instant(text, "since")


def test_changes_are_applied_in_order() -> None:
    config = apply_changes(
        [
            'CMD ["sh", "-c", "x"]',
            "ENTRYPOINT run me",
            "ENV A=1 B=\"two $A words\" C='$A' D=a\\ b",
            "env OLD the old form of $A",
            "WORKDIR /srv",
            "WORKDIR $A/${A}",
            "USER 1000:1000",
            'LABEL a=b "c d"="e f"',
            "EXPOSE 80 53/udp 8000-8001",
            'VOLUME ["/data", "/more"]',
            "VOLUME /data /last",
            "STOPSIGNAL int",
            "# a comment\n\n",
        ]
    )
    assert config == ImageConfig(
        cmd=("sh", "-c", "x"),
        entrypoint=("/bin/sh", "-c", "run me"),
        env=("A=1", "B=two  words", "C=$A", "D=a b", "OLD=the old form of 1"),
        working_dir="/srv/1/1",
        user="1000:1000",
        labels={"a": "b", "c d": "e f"},
        exposed_ports=("80/tcp", "53/udp", "8000/tcp", "8001/tcp"),
        volumes=("/data", "/more", "/last"),
        stop_signal="SIGINT",
    )


def test_what_only_looks_like_json_is_for_the_shell() -> None:
    assert apply_changes(["CMD ['sh']"]).cmd == ("/bin/sh", "-c", "['sh']")
    assert apply_changes(["CMD [1]"]).cmd == ("/bin/sh", "-c", "[1]")


@pytest.mark.parametrize(
    "change",
    ["RUN rm -rf /", "FROM x", "ENV", "ENV A", "ENV =x", "LABEL a='b", "EXPOSE 0", "EXPOSE 99999", "EXPOSE x",
     "STOPSIGNAL NOPE", "USER", "WORKDIR", "VOLUME [\"\"]", "ENV A=${B:-c}", "USER a\0b", "ONBUILD USER x"],
)  # fmt: skip
def test_a_change_that_is_not_one_is_refused(change: str) -> None:
    with pytest.raises(Invalid, match=r"change|signal"):
        apply_changes([change])


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("web", True), ("we", True), ("eb-1", True), ("^web", True), ("^eb", False), ("1$", True), ("b$", False),
        ("^/web-1$", True), ("^/?web-1$", True), ("/web", True), ("/eb", False), ("w.*1", True),
        ("^w.*b.*1$", True),
        ("^w.*x", False), ("^web-1$", True), ("^web-$", False), ("", True), ("^$", False), ("1.*w", False),
    ],
)  # fmt: skip
def test_a_name_filter_is_a_part_of_the_name(pattern: str, fits: bool) -> None:
    assert name_fits(pattern, "web-1") is fits
