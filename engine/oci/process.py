"""What a container runs: an image's defaults and a request's wishes, merged by Docker's rules.

Pure. The image's half is ``config`` of the OCI image spec (config.md#properties), written by strangers; the
request's half has the same fields, None where nothing was asked. The rules are those of moby's
``daemon/commit.go`` (merge), ``daemon/create.go`` and ``daemon/container/env.go``:

- a request's entrypoint replaces the image's and drops the image's command with it; ``("",)`` removes the
  entrypoint; an empty tuple removes it too and keeps the image's command;
- a request's command replaces the image's; the arguments are entrypoint + command;
- environments merge by name: PATH, HOSTNAME and (with a terminal) TERM first, then the request's own,
  then what only the image has;
- working directory and user: the request's if not empty, else the image's.
"""

from __future__ import annotations

import mmap
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from lading.events.errors import ImageInvalid, Invalid

__all__ = [
    "DEFAULT_PATH",
    "ImageProcess",
    "Process",
    "ProcessRequest",
    "check_command",
    "merge",
    "with_env",
    "with_home",
    "working_dir",
]

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# execve(2), "Limits on size of arguments and environment": one word with its NUL, and all words together.
_WORD_LIMIT: Final = 32 * mmap.PAGESIZE
_TOTAL_LIMIT: Final = 6 * 1024 * 1024

_FORBIDDEN_TREES: Final = ("/proc", "/sys", "/dev")
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


@attrs.frozen(kw_only=True)
class ImageProcess:
    """The defaults of an image. ``None`` and empty mean the same in all of them."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> ImageProcess:
        """Read ``config`` of an image's configuration; fields that are null or absent are empty.

        Raises :class:`ImageInvalid` for a field of another type than the specification's. A plain string
        for Entrypoint or Cmd is one word, as Docker reads it. Values are checked by :func:`merge`.
        """
        return cls(
            entrypoint=_words(config, "Entrypoint"),
            cmd=_words(config, "Cmd"),
            env=_words(config, "Env"),
            working_dir=_word(config, "WorkingDir"),
            user=_word(config, "User"),
        )


@attrs.frozen(kw_only=True)
class ProcessRequest:
    """What a request says about the process. ``entrypoint`` None is silence, ``()`` and ``("",)`` are not."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str | None = None
    user: str | None = None


@attrs.frozen(kw_only=True)
class Process:
    """What will run. ``user`` is still Docker's string: names are resolved in the container's own files."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str


def _words(config: Mapping[str, object], field: str) -> tuple[str, ...]:
    value = config.get(field)
    if value is None:
        return ()
    if isinstance(value, str) and field != "Env":
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ImageInvalid(f"the image's {field} is not a list of strings: {value!r:.120}")
    return tuple(value)


def _word(config: Mapping[str, object], field: str) -> str:
    value = config.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ImageInvalid(f"the image's {field} is not a string: {value!r:.120}")
    return value


def _check(field: str, words: Iterable[str]) -> int:
    """Refuse words that execve(2) or a JSON document can't carry; answers their size in bytes."""
    total = 0
    for word in words:
        if "\0" in word:
            raise Invalid(field, word, "it has a NUL byte in it")
        try:
            size = len(word.encode()) + 1
        except UnicodeEncodeError:
            raise Invalid(field, word, "it is not Unicode text: an OCI runtime reads it as UTF-8") from None
        if size > _WORD_LIMIT:
            raise Invalid(field, word, f"one word is {size} bytes; the kernel's limit is {_WORD_LIMIT}")
        total += size
    return total


def _parse_env(field: str, env: Iterable[str]) -> dict[str, str]:
    """Name -> ``NAME=value``; a name that comes twice keeps its place and its last value."""
    words: dict[str, str] = {}
    for word in env:
        name, equals, _ = word.partition("=")
        if not equals:
            raise Invalid(field, word, "it should be NAME=value")
        if not name:
            raise Invalid(field, word, "the name before = is empty")
        words[name] = word
    return words


def _merge_env(image: ImageProcess, request: ProcessRequest, hostname: str, terminal: bool) -> tuple[str, ...]:
    env = {"PATH": f"PATH={DEFAULT_PATH}"}
    if hostname:
        env["HOSTNAME"] = f"HOSTNAME={hostname}"
    if terminal:
        env["TERM"] = "TERM=xterm"
    asked = _parse_env("env", request.env)
    # A word without = says nothing; Docker passes over it, and images that have one should still run.
    given = _parse_env("image env", (word for word in image.env if "=" in word))
    env.update(asked)
    env.update((name, word) for name, word in given.items() if name not in asked)
    return tuple(env.values())


def working_dir(path: str) -> str:
    """``path`` normalised, or "/" when it is empty; the same check serves a command run later (exec).

    Raises :class:`Invalid` when it is relative, has a NUL byte, or is in /proc, /sys or /dev: a descriptor
    of the runtime's own, reached as /proc/self/fd/N, is a way out of the container (CVE-2024-21626). The
    check is of the text; symlinks are for the runtime to resolve inside the root.
    """
    if not path:
        return "/"
    _check("working_dir", (path,))
    if not path.startswith("/"):
        raise Invalid("working_dir", path, "it needs to be an absolute path")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    for tree in _FORBIDDEN_TREES:
        if normal == tree or normal.startswith(tree + "/"):
            raise Invalid("working_dir", path, f"it may not be in {tree}")
    return normal


def merge(image: ImageProcess, request: ProcessRequest, *, hostname: str = "", terminal: bool = False) -> Process:
    """The process of a container made from ``image`` by ``request``.

    ``hostname`` is the container's own ("" = not known, no HOSTNAME). HOME is not set: it is known when the
    container starts, see :func:`with_home`.

    Raises :class:`Invalid` with field ``command`` when nothing would run ("no command specified"), and with
    ``command``, ``env``, ``image env``, ``working_dir``, ``user`` or ``hostname`` for what can't be carried
    out: NUL bytes, text that isn't Unicode, an environment word with no name or, in a request, no ``=``,
    words or sums of words beyond the limits of execve(2), and what :func:`working_dir` refuses.
    """
    if hostname and _HOSTNAME.fullmatch(hostname) is None:
        raise Invalid("hostname", hostname, "it should be 1 to 64 letters, digits, dots, hyphens or underscores")
    entrypoint = request.entrypoint
    cmd = request.cmd or ()
    if not entrypoint:
        cmd = cmd or image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    if entrypoint == ("",):
        entrypoint = ()
    args = (*entrypoint, *cmd)
    if not args:
        raise Invalid("command", args, "no command specified")
    env = _merge_env(image, request, hostname, terminal)
    total = _check("command", args) + _check("env", env)
    if total > _TOTAL_LIMIT:
        why = f"command and environment are {total} bytes; the kernel's limit is {_TOTAL_LIMIT}"
        raise Invalid("command", args, why)
    user = request.user or image.user
    _check("user", (user,))
    return Process(args=args, env=env, cwd=working_dir(request.working_dir or image.working_dir), user=user)


def with_home(env: tuple[str, ...], home: str) -> tuple[str, ...]:
    """``env`` with HOME, unless it has one that isn't empty already (as runc does at start)."""
    if any(word.startswith("HOME=") and word != "HOME=" for word in env):
        return env
    return (*(word for word in env if word != "HOME="), f"HOME={home}")


def with_env(env: Iterable[str], asked: Iterable[str], *, terminal: bool = False) -> tuple[str, ...]:
    """The environment of a command run later (exec): the container's ``env`` with the words of ``asked``.

    A word without ``=`` takes that name away, as in Docker. With a terminal there is a TERM. Raises `Invalid`.
    """
    words = {word.partition("=")[0]: word for word in env}
    if terminal:
        words.setdefault("TERM", "TERM=xterm")
    for word in asked:
        name, equals, _ = word.partition("=")
        if not name:
            raise Invalid("env", word, "the name before = is empty")
        if equals:
            words[name] = word
        else:
            words.pop(name, None)
    return tuple(words.values())


def check_command(args: tuple[str, ...], env: tuple[str, ...]) -> None:
    """Raise `Invalid` for what :func:`merge` would refuse of a command and its whole environment."""
    if not args or not args[0]:
        raise Invalid("command", args, "no exec command specified")
    total = _check("command", args) + _check("env", env)
    if total > _TOTAL_LIMIT:
        why = f"command and environment are {total} bytes; the kernel's limit is {_TOTAL_LIMIT}"
        raise Invalid("command", args, why)
