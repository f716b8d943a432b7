"""The words and numbers of the command line: what becomes of options, times, sizes and tables."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner

from lading.engine.cli.client import Place, find_place, message_of, target
from lading.engine.cli.events import details, tone
from lading.engine.cli.logs import parse_time
from lading.engine.cli.run import make_request, run
from lading.engine.cli.tables import ago, draw, duration, size
from lading.engine.http.message import HttpError
from lading.events.codec import event_tag
from lading.events.errors import Invalid, NotFound
from lading.events.image import (
    ImageRemoved,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    ManifestAdded,
    Pushed,
    Untagged,
)
from lading.events.transfer import (
    LeaseReleased,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
)


def test_a_place_is_the_options_then_the_environment_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LADING_ROOT", raising=False)
    monkeypatch.delenv("LADING_SOCKET", raising=False)
    assert find_place() == Place("/var/lib/lading", "/var/lib/lading/lading.sock")
    monkeypatch.setenv("LADING_ROOT", "/srv/one")
    assert find_place() == Place("/srv/one", "/srv/one/lading.sock")
    assert find_place("/srv/two") == Place("/srv/two", "/srv/two/lading.sock")
    monkeypatch.setenv("LADING_SOCKET", "/run/x.sock")
    assert find_place("/srv/two") == Place("/srv/two", "/run/x.sock")
    assert find_place("/srv/two", "/run/y.sock").socket == "/run/y.sock"


def test_a_relative_root_is_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert find_place("here").root == "/usr/here"


def test_a_name_can_not_change_the_request_that_it_is_in() -> None:
    assert target("containers", "../a b?x=1#", "json") == "/v1.47/containers/..%2Fa%20b%3Fx%3D1%23/json"
    assert target("containers", "x", "stop", t=None, signal="HUP") == "/v1.47/containers/x/stop?signal=HUP"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (185, "3 minutes"),
        (3600, "About an hour"),
        (7300, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 21, "3 weeks"),
        (86400 * 100, "3 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_a_duration_is_in_docker_s_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_clock_that_stepped_back_is_told_as_it_is() -> None:
    assert ago(-90) == "in About a minute"


@pytest.mark.parametrize(("count", "words"), [(0, "0B"), (999, "999B"), (2_129_920, "2.13MB"), (5e12, "5TB")])
def test_a_size_is_decimal_with_three_digits(count: float, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1700000000", "1700000000"),
        ("1700000000.000000001", "1700000000.000000001"),
        ("10m", "999999400.000000000"),
        ("1h30m5.5s", "999994594.500000000"),
        ("2001-09-09T01:46:40Z", "1000000000"),
        ("2001-09-09T01:46:40.123456789Z", "1000000000.123456789"),
        ("2001-09-09T03:46:40+02:00", "1000000000"),
    ],
)
def test_a_time_is_seconds_a_span_or_a_date(text: str, seconds: str) -> None:
    assert parse_time(text, 1_000_000_000) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10x", "m", "-5m", "2025-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_time(text, 0)


def request_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What `lading run` with ``words`` asks the engine for."""
    made: list[dict[str, Any]] = []

    def keep(image: str, command: tuple[str, ...], **options: Any) -> dict[str, Any]:
        made.append(make_request(image, command, **options))
        raise click.exceptions.Exit(0)

    monkeypatch.setattr("lading.engine.cli.run.make_request", keep)
    outcome = CliRunner().invoke(run, words, obj=Place("/nowhere", "/nowhere/x"))
    assert outcome.exit_code == 0, outcome.output
    return made[0]


def test_what_follows_the_image_belongs_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(monkeypatch, "--rm", "-d", "web:1", "-d", "--rm", "--", "--name", "x")
    assert request["Image"] == "web:1"
    assert request["Cmd"] == ["-d", "--rm", "--", "--name", "x"]
    assert request["HostConfig"] == {"NetworkMode": "host", "AutoRemove": True, "ReadonlyRootfs": False}


def test_every_option_of_run_reaches_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "-i -e A=1 -w /tmp -u 5:6 --network none -l k=v=w -l flag --hostname h --read-only --stop-signal INT"
    request = request_of(monkeypatch, *words.split(), "--stop-timeout", "-1", "--entrypoint", "", "x")
    assert request == {
        "Image": "x",
        "Env": ["A=1"],
        "WorkingDir": "/tmp",
        "User": "5:6",
        "Labels": {"k": "v=w", "flag": ""},
        "Hostname": "h",
        "StopSignal": "INT",
        "StopTimeout": -1,
        "Entrypoint": [""],
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {"NetworkMode": "none", "AutoRemove": False, "ReadonlyRootfs": True},
    }


def test_a_variable_without_a_value_takes_the_caller_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a=b")
    monkeypatch.delenv("NOT_MINE", raising=False)
    request = request_of(monkeypatch, "-e", "MINE", "-e", "NOT_MINE", "-e", "EMPTY=", "x")
    assert request["Env"] == ["MINE=a=b", "EMPTY="]


def test_a_detached_container_keeps_its_input_open(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(monkeypatch, "-di", "x")
    assert (request["OpenStdin"], request["StdinOnce"], request["AttachStdin"]) == (True, False, False)


def test_a_table_that_is_no_terminal_s_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    draw(("A", "LONG NAME", "C"), [("x" * 200, "y", "one\nline\x1b[31m"), ("1", "2", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "A" + " " * 202 + "LONG NAME   C",
        "x" * 200 + "   y           one\\nline\\x1b[31m",
        "1" + " " * 202 + "2",
    ]


def test_a_table_takes_its_rows_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    taken = 0

    def rows() -> Any:
        nonlocal taken
        for taken in range(1, 2501):
            yield (str(taken),)

    draw(("N",), rows())
    assert len(capsys.readouterr().out.splitlines()) == 2501
    assert "rich" not in sys.modules or taken == 2500


def test_an_error_is_one_line() -> None:
    assert message_of(NotFound("container", "x")) == "no such container: x"
    assert message_of(HttpError(409, "it is\nrunning")) == "it is running"
    assert message_of(FileNotFoundError(2, "No such file or directory", "/x")) == "No such file or directory: /x"
    assert "\n" not in message_of(Invalid("x", "a\nb", "no\nno"))


def test_a_narrow_terminal_cuts_nothing_and_obeys_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    draw(("ID", "NAME", "DETAILS"), [("0123456789ab", "[red]n[/red]", "d" * 100 + "\x1b[31m")])
    shown = "".join(capsys.readouterr().out.split())
    assert "0123456789ab" in shown
    assert shown.count("d") == 100 + 2, "all of it, and the two of the name, which is no markup"
    assert "\x1b[31m" not in shown


IMAGE = "sha256:" + "1b" * 32
NAME = "docker.io/library/web:1"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (PullRequested(NAME, "linux/amd64"), "web:1 for linux/amd64"),
        (PullProgressed(3, 1, 2_000_000, 500_000), "1 of 3 layers, 500kB of 2MB"),
        (PullFinished(IMAGE, IMAGE, 1500), "image 1b1b1b1b1b1b, 1.5kB fetched"),  # type: ignore[arg-type]
        (PullFailed("the registry is down"), "the registry is down"),
        (Pushed(IMAGE, NAME, IMAGE, 400), "web:1 as 1b1b1b1b1b1b"),  # type: ignore[arg-type]
        (Untagged(NAME, IMAGE), "was 1b1b1b1b1b1b"),  # type: ignore[arg-type]
        (ImageRemoved(IMAGE), ""),  # type: ignore[arg-type]
        (ManifestAdded(IMAGE, IMAGE, "x", 4096), "1b1b1b1b1b1b"),  # type: ignore[arg-type]
        (LayerArchived(IMAGE, "blob", IMAGE, 10, "x", 20), "the compressed archive is kept: 1b1b1b1b1b1b, 10B"),  # type: ignore[arg-type]
        (LayerArchived(IMAGE, "split", "", 0, "", 20), "the archive's headers are kept, 20B"),  # type: ignore[arg-type]
        (LayerArchived(IMAGE, "pack", "", 0, "", 0), "the archive is made by packing the layer"),  # type: ignore[arg-type]
        (LayerPacked(IMAGE, IMAGE, 3, "x"), "to be pushed: 1b1b1b1b1b1b, 3B"),  # type: ignore[arg-type]
        (LayerRemoveRequested(IMAGE), "nothing uses it"),  # type: ignore[arg-type]
        (LayerRemoved(IMAGE), ""),  # type: ignore[arg-type]
        (LeaseTaken("save", (IMAGE, IMAGE)), "for a save, layers: 2"),  # type: ignore[arg-type]
        (LeaseReleased("push"), "the push is over"),
    ],
    ids=lambda value: type(value).__name__ if attrs.has(type(value)) else "",
)
def test_what_happens_to_images_is_told_in_a_few_words(event: Any, words: str) -> None:
    assert details(event) == words
    assert tone(event) == ("failure" if isinstance(event, PullFailed) else event_tag(event).partition(".")[0])
