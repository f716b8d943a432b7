"""A headless Chromium for tests, driven over WebDriver's plain HTTP. It takes all its processes with it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""How WebDriver calls a reference to an element (W3C WebDriver, section 11)."""

_ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-crash-reporter"),
    *("--disable-sync", "--window-size=1560,980", "--hide-scrollbars"),
)


@attrs.define
class Browser:
    """One session. Scripts run in the page; positions are CSS pixels from the top left of what is shown."""

    address: str
    session: str
    processes: dict[int, tuple[int, str]] = attrs.field(factory=dict)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self.address}/session/{self.session}{path}"
        return _ask(method, url, {} if body is None and method == "POST" else body)

    def open(self, file: Path, fragment: str = "") -> None:
        self.ask("POST", "/url", {"url": "about:blank"})  # another fragment alone would not load it again
        self.logs("browser")
        self.logs("performance")
        self.ask("POST", "/url", {"url": file.as_uri() + fragment})

    def run(self, script: str, *args: Any) -> Any:
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        wait = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self.ask("POST", "/execute/async", {"script": wait, "args": []})

    def click(self, x: float, y: float) -> None:
        self._pointer({"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}, x=x, y=y)

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        move = {"type": "pointerMove", "x": round(to_x), "y": round(to_y), "duration": 50}
        self._pointer({"type": "pointerDown", "button": 0}, move, {"type": "pointerUp", "button": 0}, x=x, y=y)

    def _pointer(self, *actions: dict[str, Any], x: float, y: float) -> None:
        start = {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}
        self._act({"type": "pointer", "id": "mouse", "actions": [start, *actions]})

    def wheel(self, x: float, y: float, down: int) -> None:
        scroll = {"type": "scroll", "x": round(x), "y": round(y), "deltaX": 0, "deltaY": down, "duration": 0}
        self._act({"type": "wheel", "id": "wheel", "actions": [scroll]})

    def press(self, *keys: str) -> None:
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": strokes})

    def _act(self, source: dict[str, Any]) -> None:
        self.ask("POST", "/actions", {"actions": [source]})
        self.settle()

    def devtools(self, command: str, **params: Any) -> Any:
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def logs(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last time: ``browser`` (the console) or ``performance`` (DevTools events)."""
        found: list[dict[str, Any]] = self.ask("POST", "/se/log", {"type": kind})
        return found

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened, its own among them."""
        messages = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser on a profile of its own. ``FileNotFoundError`` if none is installed: ``./dev setup`` does that."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise FileNotFoundError("chromium and chromedriver")
    with tempfile.TemporaryDirectory(prefix="lading-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        browser = Browser("", "")
        try:
            browser.address = _address(process)
            options = {"binary": chromium, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            made = _ask("POST", f"{browser.address}/session", {"capabilities": {"alwaysMatch": wanted}})
            browser.session = made["sessionId"]
            yield browser
        finally:
            browser.processes = _descendants(process.pid)
            if browser.session:
                browser.ask("DELETE", "")
            process.terminate()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()
            _end(browser)


def _address(driver: subprocess.Popen[str]) -> str:
    assert driver.stdout is not None
    for line in driver.stdout:
        if "started successfully on port" in line:
            return f"http://127.0.0.1:{int(line.rstrip().rstrip('.').rpartition(' ')[2])}"
    raise RuntimeError("chromedriver did not start")


def alive(browser: Browser) -> list[int]:
    """Which of the browser's own processes, as many as it had at its end, are still there."""
    now = _processes()
    return [pid for pid, (_, started) in browser.processes.items() if pid in now and now[pid][1] == started]


def _processes() -> dict[int, tuple[int, str]]:
    """Every process: pid -> its parent's and when it started (proc_pid_stat(5)); zombies are gone."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry)] = (int(fields[1]), fields[19])
    return found


def _descendants(of: int) -> dict[int, tuple[int, str]]:
    every = _processes()
    ours = {of}
    while more := {pid for pid, (parent, _) in every.items() if parent in ours} - ours:
        ours |= more
    return {pid: every[pid] for pid in ours if pid in every}


def _end(browser: Browser) -> None:
    """Wait for whatever is left of it, and end what does not go by itself."""
    deadline = time.monotonic() + 5
    while left := alive(browser):
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline += 5
        time.sleep(0.02)


def _ask(method: str, url: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return json.load(reply)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(json.load(error)["value"]["message"]) from None
