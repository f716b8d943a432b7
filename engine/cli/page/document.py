"""The page as one file: nothing of it comes from anywhere else, and nothing in its data is markup or script."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from lading.engine.cli.page.data import page_data
from lading.engine.cli.window import Window
from lading.events.errors import HostError
from lading.events.lives import Life

__all__ = ["embedded", "page", "write_page"]

_SCRIPTS = ("model.js", "chart.js", "panels.js", "page.js")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def embedded(data: Any) -> str:
    """``data`` as JSON that is safe within a script element: ASCII, and without ``<``, ``>`` and ``&``."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for char, escape in _ESCAPES.items():
        text = text.replace(char, escape)
    return text


def page(data: dict[str, Any]) -> str:
    """The whole document for ``data`` (from ``page_data``)."""
    scripts = "\n".join(_part(name) for name in _SCRIPTS)
    parts = {"style": _part("page.css"), "data": embedded(data), "script": scripts}
    pieces = _part("page.html").split("@@")  # text, name of a part, text, ...: what is put in is not looked into
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces)


def _part(name: str) -> str:
    return (files("lading.engine.cli.page") / name).read_text("utf-8")


def write_page(
    path: str,
    window: Window,
    lives: Sequence[Life] | None = None,
    *,
    root: str = "",
) -> None:
    """Write the page of ``window``, of ``lives`` only if given, to the file ``path``; ``-`` is standard output.

    The file is there whole or, after an error or a crash, as it was before; it is readable for all, less the
    umask. ``HostError`` if it can't be written or is something else than a file.
    """
    if path != "-":
        _check(path)
    containers = None if lives is None else {life.container for life in lives}
    document = page(page_data(window, containers, root=root)).encode()
    if path == "-":
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
        return
    target = os.path.realpath(path)
    new = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "wb") as file:
                file.write(document)
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, target)
        except BaseException:
            os.unlink(new)
            raise
    except OSError as error:
        raise HostError("write the page", path, error.errno or 0, "choose another file") from error


def _check(path: str) -> None:
    """Refuse what a rename would replace though it is no file: a directory, and above all a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # not there, or for the opening to tell
    if stat.S_ISDIR(mode):
        raise HostError("write the page", path, errno.EISDIR, "name a file in it")
    if not stat.S_ISREG(mode):
        raise HostError("write the page", path, errno.EINVAL, "it is no regular file; - is standard output")
