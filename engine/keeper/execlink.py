"""The engine's end of what the keeper tells of execs: see ``keeper.exec`` for the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import trio

__all__ = ["ExecLink", "KeptExec"]


class _Post(Protocol):
    def __call__(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None: ...


@attrs.define(eq=False)
class KeptExec:
    """One exec as the keeper tells of it.

    ``begun`` is set when its process has a pid, or it ended; ``ended`` when it is over or lost. ``code`` and
    ``why`` as in message ``exec-exited``; ``lost``: the keeper is gone, and nobody can tell its exit any more.
    ``master``: its terminal's master, -1 until ``begun`` and without one; whoever takes it sets it to -1.
    """

    id: str
    begun: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    pid: int = 0
    ticks: int = 0
    code: int = 0
    why: str = ""
    lost: bool = False
    master: int = -1
    on_end: Callable[[], None] | None = None

    def end(self) -> None:
        """It is over, or lost."""
        self.begun.set()
        self.ended.set()
        if self.on_end is not None:
            self.on_end()


class ExecLink:
    """Runs execs in the keeper, and hears of them. ``kept``: those that the keeper has."""

    def __init__(self, post: _Post, post_later: Callable[[dict[str, Any]], None]) -> None:
        self.kept: dict[str, KeptExec] = {}
        self._post = post
        self._post_later = post_later

    def start(
        self, message: dict[str, Any], fds: Sequence[int], on_end: Callable[[], None] | None = None
    ) -> KeptExec:
        """Have the keeper run this (``wire``, op ``exec``); ``fds`` are its own from now on.

        ``on_end`` is called, once, when it is over or lost.
        """
        kept = KeptExec(message["id"], on_end=on_end)
        self.kept[kept.id] = kept
        self._post({"op": "exec", "fds": len(fds), **message}, fds)
        return kept

    def drop_output(self, exec_id: str, streams: str = "oe") -> None:
        """Nobody reads what it prints there any more."""
        self._post({"op": "exec-drop", "id": exec_id, "streams": streams})

    def done(self, kept: KeptExec) -> None:
        """Its exit is where it has to be, and nobody reads any more."""
        if self.kept.pop(kept.id, None) is not None:
            self._post_later({"op": "exec-done", "id": kept.id})
        if kept.master >= 0:
            os.close(kept.master)
            kept.master = -1

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Give its terminal, if it has one, this size."""
        self._post({"op": "resize", "id": exec_id, "rows": rows, "columns": columns})

    def found(self, execs: Sequence[dict[str, Any]]) -> None:
        """What a keeper has when it is found (``hello``)."""
        for told in execs:
            kept = self.kept[told["id"]] = KeptExec(told["id"], pid=told["pid"], ticks=told["ticks"])
            if kept.pid:
                kept.begun.set()
            if told["exit"] is not None:
                kept.code, kept.why = told["exit"]["code"], told["exit"]["why"]
                kept.end()

    def handle(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """A message of the keeper's, with its descriptors."""
        kept = self.kept.get(message["id"])
        if kept is None:
            for fd in fds:
                os.close(fd)
            return
        match message["op"]:
            case "exec-tty":
                (kept.master,) = fds
            case "exec-started":
                kept.pid, kept.ticks = message["pid"], message["ticks"]
                kept.begun.set()
            case "exec-exited" if not kept.ended.is_set():
                kept.code, kept.why = message["code"], message["why"]
                kept.end()

    def lost(self) -> None:
        """The keeper is gone."""
        kept, self.kept = self.kept, {}
        for each in kept.values():
            if not each.ended.is_set():
                each.lost = True
                each.end()
