"""The page of `lading timeline --html`, in a real browser: it is whole, inert to its data, and says what is so."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import past
import pytest
from browser import Browser, alive, open_browser
from cli_program import Cli
from histories import histories
from hypothesis import given, settings
from plainviews import MemoryViews

from lading.engine.cli.page.data import plain_state
from lading.engine.cli.page.document import write_page
from lading.engine.cli.window import open_window
from lading.events.envelope import UNKNOWN
from lading.events.ids import CommandId
from lading.events.moments import Instant, Position
from lading.events.views import CONTAINERS, IMAGES, TAGS, project
from lading.storage.environment import open_log
from lading.storage.log import Append
from lading.storage.store import read_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with open_browser() as session:
            yield session
    except FileNotFoundError as missing:
        pytest.skip(f"the page is only tested with {missing}: ./dev setup installs them on Debian")
    assert len(session.processes) > 3
    assert alive(session) == [], "it must take all its processes with it"


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli(tmp_path_factory.mktemp("evening") / "store")
    commands = ["c" * 32 if index in (5, 6, 9) else f"{index:032x}" for index in range(len(past.evening()))]
    past.write_store(cli.root, past.evening(), commands)
    until = str(past.START // past.SECOND + 101)
    cli("timeline", "--until", until, "--html", os.fspath(cli.root.parent / "page.html"))
    return cli


@pytest.fixture
def opened(browser: Browser, evening: Cli) -> Browser:
    browser.open(evening.root.parent / "page.html")
    browser.settle()
    return browser


def expected(root: Path, position: int) -> dict[str, Any]:
    """What the fold of the log gives after ``position``, in the page's words."""
    views = MemoryViews()
    log = read_log(root)
    try:
        for record in log.read(0, 100_000):
            if record.position <= position:
                project(record, views)
    finally:
        log.close()
    return words_of(views)


def words_of(views: MemoryViews) -> dict[str, Any]:
    return {
        "containers": {key: plain_state(state) for view, key, state in views.items() if view is CONTAINERS},
        "images": {key: list(state.tags) for view, key, state in views.items() if view is IMAGES},
        "tags": {key: state.image for view, key, state in views.items() if view is TAGS},
    }


def shown(browser: Browser, position: int) -> dict[str, Any]:
    world = browser.run("return lading.stateAt(arguments[0])", position)
    for state in world["containers"]:
        state.pop("since", None)
    return {
        "containers": {state["id"]: state for state in world["containers"]},
        "images": {image["id"]: image["tags"] for image in world["images"]},
        "tags": dict(world["tags"]),
    }


def text(browser: Browser, selector: str) -> str:
    found: str = browser.run("return document.querySelector(arguments[0]).innerText", selector)
    return found


def where(browser: Browser, position: int) -> tuple[float, float]:
    """Where the event at ``position`` is drawn, in the window."""
    script = """
        const at = lading.where(arguments[0]), box = document.getElementById("canvas").getBoundingClientRect();
        return [box.left + at.x, box.top + at.y];
    """
    x, y = browser.run(script, position)
    return x, y


# -- what it is -----------------------------------------------------------------------------------------


def test_it_opens_without_an_error_and_asks_for_nothing(opened: Browser, evening: Cli) -> None:
    assert opened.logs("browser") == []
    asked = [url for url in opened.requests() if url not in ("about:blank", "data:,")]
    assert asked == [(evening.root.parent / "page.html").as_uri()]
    assert text(opened, "h1") == "Timeline"
    said = text(opened, "#facts").split("\n")
    assert sorted(said) == sorted(["6", "containers", "36", "events", "1 min 41 s", "long"])


def test_the_legend_names_every_phase_there_is(opened: Browser) -> None:
    assert text(opened, "#legend").split("\n") == [
        *("created", "starting", "running", "stopping", "stopped", "removing", "ended in failure", "event")
    ]


def test_something_is_drawn_in_the_phases_colours(opened: Browser) -> None:
    """The middle of the crashing container's first run is the colour of running."""
    script = """
        const canvas = document.getElementById("canvas"), scale = canvas.width / canvas.clientWidth;
        const [a, b] = [lading.where(arguments[0]), lading.where(arguments[1])];
        const x = (a.x + b.x) / 2 * scale, y = (a.y + 4) * scale;
        return [[...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3),
                getComputedStyle(document.documentElement).getPropertyValue("--running").trim()];
    """
    positions = positions_of(opened, "crash")
    colour, wanted = opened.run(script, positions[2], positions[3])
    assert "#" + "".join(f"{part:02x}" for part in colour) == wanted


def positions_of(browser: Browser, name: str) -> list[int]:
    script = """
        const data = JSON.parse(document.getElementById("data").textContent);
        const row = data.rows.find((each) => each.name === arguments[0]);
        const own = data.events.filter((each) => data.streams[each[4]] === "container/" + row.id);
        return own.map((each) => each[0]);
    """
    found: list[int] = browser.run(script, name)
    return found


# -- what it does ---------------------------------------------------------------------------------------


def test_a_click_on_a_mark_shows_all_of_its_record(opened: Browser) -> None:
    position = positions_of(opened, "crash")[3]
    opened.click(*where(opened, position))
    assert opened.run("return lading.current()") == position
    said = text(opened, "#detail")
    for word in ("container.exited", "Exited", "crash", "2025-02-19 21:20:26.000000000", "root[7] tester"):
        assert word in said
    fields = [line for line in said.split("Fields")[1].split("\n") if line]
    assert fields[:6] == ["run", "1", "exit_code", "1", "at", "0"]


def test_where_several_events_are_one_mark_clicks_show_them_in_turn(opened: Browser) -> None:
    """And a number of 64 bits, a process's start, is not rounded."""
    _, requested, started, *_ = positions_of(opened, "crash")
    for position in (requested, started, requested, started):
        opened.click(*where(opened, started))
        assert opened.run("return lading.current()") == position
    assert str(2**63 + 1) in text(opened, "#detail")


@pytest.mark.long
def test_the_slider_shows_the_state_that_the_fold_gives(opened: Browser, evening: Cli) -> None:
    """At every position: what the page has folded, and what its table says, is what Python folds."""
    for position in range(1, 37):
        script = """
            return [...document.querySelectorAll("#containers tbody tr")].map((line) => line.dataset.id + " "
                + [...line.cells].slice(0, 3).map((cell) => cell.innerText).join(" "));
        """
        slide(opened, position)
        lines = opened.run(script)
        truth = expected(evening.root, position)
        assert shown(opened, position) == truth
        assert sorted(line.rsplit(" ", 1)[0] if line[-1] == " " else line for line in lines) == sorted(
            table_line(state) for state in truth["containers"].values()
        )
    assert shown(opened, 0) == {"containers": {}, "images": {}, "tags": {}}


def slide(browser: Browser, to: int) -> None:
    script = """
        const slider = document.getElementById("slider");
        slider.value = arguments[0];
        slider.dispatchEvent(new Event("input"));
    """
    browser.run(script, to)
    browser.settle()


def table_line(state: dict[str, Any]) -> str:
    line = f"{state['id']} {state['name']} {state['phase']}"
    if state["phase"] in ("created", "starting", "running", "stopping"):
        return line
    if state["exit_code"] is None:
        return f"{line} unknown" if state["finished_at"] != "0" else line
    return f"{line} {state['exit_code']}"


@pytest.mark.long
@settings(max_examples=40)
@given(members=histories(most=40))
def test_any_history_folds_to_the_same_in_the_page(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, members: list[Any]
) -> None:
    """Whole, and cut: with what was before, every moment is the one that Python's views had."""
    top = tmp_path_factory.mktemp("any")
    log = open_log(top / "log", "0" * 32)
    try:
        count = itertools.count()
        for index, member in enumerate(members):
            ids = tuple(f"{next(count):032x}" for _ in member)
            time_ns = past.START + (index * 7 % 5) * past.SECOND
            [answer] = log.append([Append(member, ids, time_ns, UNKNOWN, CommandId("0" * 32))])
            assert isinstance(answer, tuple), answer
        for since in (None, Instant(past.START + 3 * past.SECOND), Position(log.head() // 2)):
            window = open_window(log, since)
            write_page(os.fspath(top / "page.html"), window)
            browser.open(top / "page.html")
            views = MemoryViews()
            for record in log.read(0, 10_000):
                project(record, views)
                if record.position >= window.after:
                    assert shown(browser, record.position) == words_of(views)
    finally:
        log.close()


def test_the_wheel_the_buttons_the_keys_and_dragging_change_what_is_in_view(opened: Browser) -> None:
    def seen() -> tuple[float, float]:
        opened.settle()
        start, end = opened.run("return lading.range()")
        return start, end

    whole = seen()
    x, y = where(opened, positions_of(opened, "crash")[4])
    opened.wheel(x, y, -200)
    wheeled = seen()
    assert wheeled[1] - wheeled[0] < 0.8 * (whole[1] - whole[0])
    assert where(opened, positions_of(opened, "crash")[4])[0] == pytest.approx(x, abs=1.5), (
        "what is pointed at stays"
    )
    opened.drag(x, y, x - 150, y)
    dragged = seen()
    assert dragged[0] > wheeled[0]
    assert dragged[1] - dragged[0] == pytest.approx(wheeled[1] - wheeled[0])
    opened.run("document.getElementById('in').click()")
    assert seen()[1] - seen()[0] < dragged[1] - dragged[0]
    opened.run("document.getElementById('fit').click()")
    assert seen() == whole
    opened.run("document.getElementById('canvas').focus()")
    opened.press("+")
    assert seen()[1] - seen()[0] == pytest.approx(0.6 * (whole[1] - whole[0]))
    opened.press("-", "-", "-")
    assert seen() == pytest.approx(whole), "it goes no further out than everything"


def test_the_keyboard_goes_through_a_life(opened: Browser) -> None:
    crash = positions_of(opened, "crash")
    opened.click(*where(opened, crash[3]))
    opened.press("\ue014")
    assert opened.run("return lading.current()") == crash[4]
    opened.press("\ue012", "\ue012")
    assert opened.run("return lading.current()") == crash[2]
    opened.press("\ue015")
    assert opened.run("return lading.current()") in positions_of(opened, "missing")
    opened.press("\ue011")
    assert opened.run("return lading.current()") == 1
    opened.press("\ue010")
    assert opened.run("return lading.current()") == 36


def test_all_events_of_one_command_are_told_and_marked(opened: Browser, tmp_path: Path) -> None:
    opened.run("location.hash = '#7'")
    opened.settle()
    assert opened.run("return lading.current()") == 7
    assert "All 3 of this command" in text(opened, "#detail")
    before = opened.run("return document.getElementById('canvas').toDataURL()")
    opened.run("document.getElementById('family').click()")
    opened.settle()
    assert opened.run("return document.getElementById('family').getAttribute('aria-pressed')") == "true"
    assert opened.run("return document.getElementById('canvas').toDataURL()") != before


def test_a_filter_leaves_the_rows_and_the_lines_that_fit(opened: Browser) -> None:
    opened.press("/", *"CRASH")
    assert opened.run("return document.getElementById('filter').value") == "CRASH"
    assert opened.run("return [...document.querySelectorAll('#containers tbody tr')].length") == 1
    assert where(opened, positions_of(opened, "crash")[0])[1] > 0
    assert opened.run("return lading.where(arguments[0]).y", positions_of(opened, "missing")[0]) < 44, (
        "no row is its"
    )
    opened.press("\ue00c")
    assert opened.run("return document.getElementById('filter').value") == ""


def test_dark_and_light_follow_the_scheme(opened: Browser) -> None:
    def ground(scheme: str) -> tuple[int, int]:
        opened.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        opened.settle()
        script = """
            const channel = (text) => Number(text.match(/[0-9]+/)[0]);
            const pixel = document.getElementById("canvas").getContext("2d").getImageData(5, 5, 1, 1).data[0];
            return [channel(getComputedStyle(document.body).backgroundColor), pixel];
        """
        body, canvas = opened.run(script)
        return body, canvas

    try:
        assert min(ground("light")) > 200
        assert max(ground("dark")) < 60
    finally:
        opened.devtools("Emulation.setEmulatedMedia", features=[])


# -- what may not happen --------------------------------------------------------------------------------


def test_names_labels_and_words_from_outside_are_inert(browser: Browser, tmp_path: Path) -> None:
    recipe = past.spec(past.HOSTILE, {past.HOSTILE: past.HOSTILE})
    root = tmp_path / "store"
    past.write_store(
        root,
        [*past.image(0, tag="x" + past.HOSTILE), *past.life(past.HOSTILE, 1, *past.run(1, 5, 1), recipe=recipe)],
    )
    file = tmp_path / "page.html"
    Cli(root)("timeline", "--html", os.fspath(file))
    browser.open(file)
    for position in range(1, 8):
        browser.run("location.hash = arguments[0]", f"#{position}")
        browser.settle()
    browser.run("location.hash = '#4'")
    browser.settle()
    assert browser.run("return [window.hit ?? 0, document.querySelectorAll('img').length]") == [0, 0]
    assert "<img src=x onerror='window.hit=2'>" in text(browser, "#detail")
    assert "\u202e" not in browser.run("return document.body.innerText")
    assert browser.run("return document.querySelectorAll('script').length") == 2
    assert browser.logs("browser") == []
    assert shown(browser, 7) == expected(root, 7)


def test_a_page_without_any_container_and_one_without_any_event_work(browser: Browser, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    past.write_store(cli.root, [])
    for words in ((), ("--since", "1m")):
        cli("timeline", *words, "--html", os.fspath(tmp_path / "page.html"))
        browser.open(tmp_path / "page.html")
        browser.settle()
        assert browser.logs("browser") == []
        assert text(browser, "#more") == "none at this moment"


def test_a_part_of_the_time_begins_with_what_was_there(browser: Browser, evening: Cli, tmp_path: Path) -> None:
    at = past.START // past.SECOND
    evening(
        "timeline", "--since", str(at + 30), "--until", str(at + 60), "--html", os.fspath(tmp_path / "page.html")
    )
    browser.open(tmp_path / "page.html")
    positions = browser.run(
        "return JSON.parse(document.getElementById('data').textContent).events.map((e) => e[0])"
    )
    assert 0 < len(positions) < 36
    for position in (positions[0] - 1, *positions):
        assert shown(browser, position) == expected(evening.root, position)


@pytest.mark.long
def test_it_stays_quick_with_2000_containers_and_20000_events(browser: Browser, tmp_path: Path) -> None:
    """Opened in seconds; a step of zooming or sliding, drawn, in far less than people wait for."""
    root = tmp_path / "store"
    program = Path(__file__).parents[2] / "examples" / "history.py"
    subprocess.run([sys.executable, program, root, "2000"], check=True, capture_output=True)
    Cli(root)("timeline", "--html", os.fspath(tmp_path / "page.html"))
    began = time.monotonic()
    browser.open(tmp_path / "page.html")
    browser.settle()
    assert time.monotonic() - began < 10
    script = """
        const [act, done] = arguments, slider = document.getElementById("slider"), spent = [];
        let began = 0;
        const next = (step) => {
            if (began) spent.push(performance.now() - began);
            if (step === 40) return done(spent.sort((a, b) => a - b)[20]);
            if (act === "zoom") document.getElementById(step % 2 ? "in" : "out").click();
            slider.value = String((step * 977) % 20000);
            if (act === "slide") slider.dispatchEvent(new Event("input"));
            began = performance.now();
            requestAnimationFrame(() => setTimeout(next, 0, step + 1));
        };
        next(0);
    """
    spent = {act: browser.ask("POST", "/execute/async", {"script": script, "args": [act]}) for act in STEPS}
    print(spent)
    assert max(spent.values()) < 100, "milliseconds, the median"
    assert browser.logs("browser") == []


STEPS = ("zoom", "slide")
