"""`lading timeline` draws lives as lines that fit, read without colour, and hide nothing."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import subprocess
from pathlib import Path

import attrs
import past
import pytest
from cli_program import Cli

from lading.engine.cli.bars import ASCII, GLYPHS, bars, ticks
from lading.events.container import Phase
from lading.events.lives import Life, Name, Segment, trace
from lading.storage.store import read_log

pytestmark = pytest.mark.slow

UNTIL = ("--until", str(past.START // past.SECOND + 101), "--utc")


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli(tmp_path_factory.mktemp("evening") / "store")
    past.write_store(cli.root, past.evening())
    return cli


def rows(output: str) -> dict[str, tuple[str, str]]:
    """Name -> (bar, status) of what was printed without colour."""
    lines = output.splitlines()
    heading = lines[2]
    begin, end = re.search(r"[─┬]+", heading).span()  # type: ignore[union-attr]
    found = {}
    for line in lines[3:]:
        if line[:begin].strip() and line[end : end + 2].strip() == "" and len(line) > end:
            found[line[:begin].strip()] = (line[begin:end].rstrip(), line[end:].strip())
    return found


def squeezed(bar: str) -> str:
    return re.sub(r"(.)\1+", r"\1", bar.strip())


def test_every_life_is_a_row_with_its_phases_and_its_end(evening: Cli) -> None:
    done = evening("timeline", *UNTIL)
    assert done.stdout.startswith("2025-02-19 21:20:01 to 21:21:41 (UTC), About a minute, records: 36\n")
    found = rows(done.stdout)
    assert {name: status for name, (_, status) in found.items()} == {
        "old": "gone, exit 143",
        "crash": "running",
        "missing": "failed 127",
        "lost": "exit unknown",
        "blink": "gone, exit 0",
        "web": "created",
    }
    assert squeezed(found["old"][0]) == "▒█▓─░"
    assert re.fullmatch("·?▒?█×─▒?█×─▒?█", squeezed(found["crash"][0]))
    assert squeezed(found["missing"][0]) == "·▒×─"
    assert squeezed(found["blink"][0]) == "█"
    assert squeezed(found["web"][0]) == "·"
    legend = done.stdout.splitlines()[-1]
    assert [word for word in legend.split() if len(word) > 1] == [
        *("created", "starting", "running", "stopping", "stopped", "removing", "failed")
    ]


def test_the_bars_are_where_the_axis_says(evening: Cli) -> None:
    """Of a hundred columns for a hundred seconds, the stop took from 41 s to 61 s."""
    width = 100 + len("CONTAINER") + len("gone, exit 143") + 4
    lines = list(bars([life_of(evening, "old")], past.START, past.START + 100 * past.SECOND, width, utc=True))
    bar = "".join(span.text for span in lines[2])[len("CONTAINER") + 2 :][:100]
    assert [index for index, glyph in enumerate(bar) if glyph == "▓"] == list(range(41, 61))
    assert [index for index, glyph in enumerate(bar) if glyph == " "] == [0, *range(82, 100)]


def life_of(cli: Cli, name: str) -> Life:
    log = read_log(cli.root)
    try:
        return next(life for life in trace(log.read()).lives if life.name == name)
    finally:
        log.close()


def test_all_glyphs_differ_and_have_a_twin_in_ascii() -> None:
    assert len(set(GLYPHS.values())) == len(GLYPHS) == len(set(ASCII.values()))
    assert set(GLYPHS) == set(ASCII) >= {str(phase) for phase in Phase} - {"deleted"}
    assert "".join(ASCII.values()).isascii()


def test_a_terminal_without_blocks_gets_ascii(evening: Cli) -> None:
    done = evening("timeline", *UNTIL, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.stdout.isascii()
    assert "#" in done.stdout


@pytest.mark.parametrize("width", [40, 60, 100, 160])
def test_no_line_is_wider_than_it_may_be(evening: Cli, width: int) -> None:
    lines = evening("timeline", *UNTIL, "--width", str(width)).stdout.splitlines()[1:]
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) >= width - 3


def test_without_a_terminal_it_is_a_hundred_columns_of_plain_text(evening: Cli) -> None:
    output = evening("timeline", *UNTIL).stdout
    assert "\x1b" not in output
    assert 97 <= max(map(len, output.splitlines()[1:])) <= 100


def test_a_terminal_gets_colours_and_its_own_width(evening: Cli) -> None:
    master, slave = pty.openpty()
    environ = evening.environ | {"COLUMNS": "72", "TERM": "xterm-256color"}
    environ.pop("NO_COLOR", None)
    subprocess.run(evening.command("timeline", *UNTIL), stdout=slave, env=environ, check=True, timeout=60)
    os.close(slave)
    output = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # how a pty says that nobody has the other side
            break
        output += piece
    os.close(master)
    text = output.decode()
    assert "\x1b[32m█" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(len(line) for line in plain[1:]) <= 72


def test_a_part_of_the_time_shows_what_was_there_already(evening: Cli) -> None:
    at = past.START // past.SECOND
    found = rows(evening("timeline", "--since", str(at + 62), "--until", str(at + 70), "--utc").stdout)
    assert found["crash"][1] == "running"
    assert found["web"][1] == "exit 143", "as it was called until then"
    assert "blink" not in found
    assert squeezed(found["lost"][0]) == "─"


def test_two_positions_are_what_lies_between_them(evening: Cli) -> None:
    """With everybody who was there, drawn to the moment of the last record."""
    whole = [json.loads(line) for line in evening("log", "--json").stdout.splitlines()]
    asked = evening("timeline", "--since", "@12", "--until", "@17", "--utc").stdout
    assert asked.splitlines()[0].endswith("records: 5")
    assert whole[16]["utc"][11:19] in asked.splitlines()[0]
    assert set(rows(asked)) == {"web", "crash", "missing", "lost"}
    assert "No container lived then." in evening("timeline", "--since", "@0", "--until", "@1").stdout
    assert set(rows(evening("timeline", "--since", "@9999", "--utc").stdout)) == {
        "crash",
        "missing",
        "lost",
        "web",
    }


@pytest.mark.real
def test_a_compacted_store_is_drawn_from_what_it_keeps(fresh: Cli) -> None:
    """Everybody who was there then is drawn from the edge, by name and image, though the beginning is gone."""
    past.write_store(fresh.root, past.evening())
    fresh("compact", "--before", "@20")
    lines = fresh("timeline", "--json", "--until", str(past.START // past.SECOND + 101)).stdout.splitlines()
    told = {life["name"]: life for life in map(json.loads, lines)}
    assert set(told) == {"old", "crash", "missing", "lost", "blink", "web"}
    for name in ("old", "crash", "missing", "lost"):
        assert told[name]["segments"][0]["start"] is None
        assert told[name]["image_name"] == "app:1"
    assert told["web"]["segments"][0]["start"] == past.START + 90 * past.SECOND
    assert set(rows(fresh("timeline", "--since", "@1", "--utc").stdout)) == set(told)


def test_names_stand_for_everyone_who_had_them(evening: Cli) -> None:
    assert set(rows(evening("timeline", "web", *UNTIL).stdout)) == {"old", "web"}
    whole = past.identity("crash 5")
    assert set(rows(evening("timeline", whole[:9], *UNTIL).stdout)) == {"crash"}
    assert evening("timeline", "nosuch", code=1).stderr == "lading: no such container: nosuch\n"
    assert evening("timeline", "", code=1).stderr == "lading: no such container:\n"


def test_the_last_are_those_that_changed_last(evening: Cli) -> None:
    assert set(rows(evening("timeline", "-n", "2", *UNTIL).stdout)) == {"old", "web"}


def test_json_has_everything(evening: Cli) -> None:
    told = [json.loads(line) for line in evening("timeline", "--json").stdout.splitlines()]
    assert [life["name"] for life in told] == ["old", "crash", "missing", "lost", "blink", "web"]
    old = told[0]
    assert old["container"] == past.identity("web 1")
    assert [name["name"] for name in old["names"]] == ["web", "old"]
    assert [segment["phase"] for segment in old["segments"]][-2:] == ["stopped", "removing"]
    assert old["segments"][-1]["end"] == past.START + 82 * past.SECOND
    assert (old["exit_code"], old["outcomes"][0]["asked"]) == (143, True)


def test_nothing_yet_is_said(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    past.write_store(cli.root, [])
    assert cli("timeline").stdout == "No container yet.\n"
    assert cli("timeline", "--since", "1h").stdout == "No container lived then.\n"
    assert cli("timeline", "--json").stdout == ""


def test_of_thousands_the_latest_are_drawn_and_the_rest_counted(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    past.write_store(cli.root, [step for number in range(300) for step in past.life(f"c{number}", number)])
    done = cli("timeline")
    assert len(rows(done.stdout)) == 40
    assert "c299" in rows(done.stdout)
    assert done.stdout.splitlines()[-1].startswith("260 more that changed before these: --all")
    assert len(rows(cli("timeline", "--all").stdout)) == 300


def test_a_name_can_not_write_on_the_terminal() -> None:
    name = "\x1b[31m\u202e\nx"
    life = Life(
        "a" * 64,
        (Name(name, 1, 5),),
        "",
        "",
        {},
        (Segment(Phase.RUNNING, 1, 5, None),),
        (),
        None,
        Phase.RUNNING,
        1,
    )
    text = "\n".join("".join(span.text for span in line) for line in bars([life], 0, 10**9, 120))
    assert not {"\x1b", "\u202e", "\r"} & set(text)
    assert len(text.splitlines()) == 4
    twice = [life, attrs.evolve(life, container="b" * 64)]
    assert "bbbbbb" in "".join(span.text for line in bars(twice, 0, 10**9, 200) for span in line)


@pytest.mark.parametrize(
    ("seconds", "names"),
    [
        (0.01, {":"}),
        (60, {":"}),
        (7200, {":"}),
        (86400 * 3, {"Feb 20", "Feb 21", "Feb 22"}),
        (86400 * 3000, {"Dec 2025"}),
    ],
)
def test_ticks_are_round_and_about_as_many_as_fit(seconds: float, names: set[str]) -> None:
    found = ticks(past.START, past.START + round(seconds * past.SECOND), 8, utc=True)
    assert 2 <= len(found) <= 10
    steps = {b[0] - a[0] for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    if names != {":"}:
        assert names <= {name for _, name in found}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "noon"), "'noon' is no time: give a position"),
        (("--until", "99999999999999"), "not between 1970 and 2262"),
        (("--html", "x", "--json"), "one too many"),
        (("--width", "3"), "3 is not in the range"),
        (("-n", "0"), "0 is not in the range"),
    ],
)
def test_wrong_usage_is_one_line(evening: Cli, words: tuple[str, ...], said: str) -> None:
    done = evening("timeline", *words, code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
