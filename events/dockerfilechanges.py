"""Dockerfile instructions that say how an image is run: the ``changes`` of an import or a commit.

Source: the Dockerfile reference; Docker Engine API v1.47, ImageCreate and ImageCommit: ``CMD``, ``ENTRYPOINT``,
``ENV``, ``EXPOSE``, ``HEALTHCHECK``, ``LABEL``, ``ONBUILD``, ``STOPSIGNAL``, ``USER``, ``VOLUME`` and ``WORKDIR``,
each an instruction on a line.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Final, TypeAlias

import attrs

from lading.events.errors import Invalid
from lading.events.image import ImageConfig
from lading.events.imageconfig import Healthcheck
from lading.events.signals import check_signal

__all__ = ["RunConfig", "apply_changes", "change_run"]

Apply: TypeAlias = "Callable[[RunConfig, str, str], RunConfig]"

_MOST: Final = 1000
_VARIABLE: Final = re.compile(r"\\(.)|\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}|(.?))", re.DOTALL)
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


@attrs.frozen
class RunConfig:
    """All that an image says about running it: its ``config``, and what only some images have.

    ``on_build``: instructions for a build on top of it. ``shell``: what runs commands that are lines, empty for
    ``/bin/sh -c``.
    """

    config: ImageConfig = attrs.field(factory=ImageConfig)
    on_build: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()


def apply_changes(changes: Iterable[str], config: ImageConfig | None = None) -> ImageConfig:
    """``config`` (none: an empty one) after ``changes``, in order. Each may hold several lines.

    In all but CMD and ENTRYPOINT, ``$NAME`` and ``${NAME}`` stand for what ENV has set so far. Raises ``Invalid``
    for another instruction or a malformed one, and for HEALTHCHECK and ONBUILD, for which see ``change_run``.
    """
    return _applied(changes, RunConfig(config or ImageConfig()), _INSTRUCTIONS).config


def change_run(changes: Iterable[str], run: RunConfig) -> RunConfig:
    """``run`` after ``changes``, as ``apply_changes``, but with every instruction."""
    return _applied(changes, run, _ALL)


def _applied(changes: Iterable[str], run: RunConfig, known: Mapping[str, Apply]) -> RunConfig:
    lines = [line.strip() for change in changes for line in change.replace("\\\n", " ").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) > _MOST:
        raise Invalid("changes", f"{len(lines)} instructions", f"{_MOST} are enough")
    for line in lines:
        if "\0" in line:
            raise Invalid("change", line, "it has a NUL byte in it")
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        apply = known.get(word.upper())
        if apply is None:
            raise Invalid("change", line, f"{word} is not a valid change command")
        rest = rest.strip()
        if not rest and word.upper() != "CMD":
            raise Invalid("change", line, f"{word} requires an argument")
        run = apply(run, rest, line)
    return run


def _on_config(change: Callable[[ImageConfig, str, str], ImageConfig]) -> Apply:
    return lambda run, rest, line: attrs.evolve(run, config=change(run.config, rest, line))


def _cmd(run: RunConfig, rest: str, line: str) -> RunConfig:
    return attrs.evolve(run, config=attrs.evolve(run.config, cmd=_command(run, rest)))


def _entrypoint(run: RunConfig, rest: str, line: str) -> RunConfig:
    return attrs.evolve(run, config=attrs.evolve(run.config, entrypoint=_command(run, rest)))


def _command(run: RunConfig, rest: str) -> tuple[str, ...]:
    """JSON is the exec form; anything else, even what only looks like JSON, is for the shell."""
    words = _json_words(rest)
    if words is not None:
        return words
    return (*(run.shell or ("/bin/sh", "-c")), rest) if rest else ()


def _on_build(run: RunConfig, rest: str, line: str) -> RunConfig:
    word = rest.split(None, 1)[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise Invalid("change", line, f"{word} isn't allowed as an ONBUILD trigger")
    return attrs.evolve(run, on_build=(*run.on_build, rest))


def _health(run: RunConfig, rest: str, line: str) -> RunConfig:
    found: dict[str, int] = {}
    while rest.startswith("--"):
        word, _, rest = rest.partition(" ")
        name, equals, value = word[2:].partition("=")
        if name not in _HEALTH_FLAGS or not equals or name in found:
            raise Invalid("change", line, f"{word} is no option of HEALTHCHECK, or there twice")
        found[name] = _retries(value, line) if name == "retries" else _duration(value, line)
        rest = rest.strip()
    kind, _, command = rest.partition(" ")
    command = command.strip()
    match kind.upper():
        case "NONE" if not command and not found:
            return attrs.evolve(run, healthcheck=Healthcheck(("NONE",)))
        case "CMD" if command:
            words = _json_words(command)
            test = ("CMD-SHELL", command) if words is None else ("CMD", *words)
            times = (found.get(name, 0) for name in _HEALTH_FLAGS)
            return attrs.evolve(run, healthcheck=Healthcheck(test, *times))
        case _:
            raise Invalid("change", line, "it must be HEALTHCHECK NONE, or [OPTIONS] CMD and a command")


_HEALTH_FLAGS: Final = ("interval", "timeout", "start-period", "start-interval", "retries")
_UNITS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SPAN: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)")


def _retries(text: str, line: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid("change", line, f"--retries={text} is no whole number")
    return int(text)


def _duration(text: str, line: str) -> int:
    """Go's durations, ``1m30s``, in nanoseconds."""
    if not re.fullmatch(f"(?:{_SPAN.pattern})+", text):
        raise Invalid("change", line, f"{text!r} is no duration such as 30s or 1m30s")
    total = sum(round(Fraction(number) * _UNITS[unit]) for number, unit in _SPAN.findall(text))
    if 0 < total < 10**6 or total >= 1 << 63:
        raise Invalid("change", line, f"{text!r} is less than a millisecond, or too long")
    return total


def _json_words(rest: str) -> tuple[str, ...] | None:
    if not rest.startswith("["):
        return None
    try:
        words = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    return tuple(words)


def _env(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    pairs = {word.partition("=")[0]: word for word in config.env}
    pairs.update((key, f"{key}={value}") for key, value in _pairs(config, rest, line))
    return attrs.evolve(config, env=tuple(pairs.values()))


def _label(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    return attrs.evolve(config, labels={**config.labels, **dict(_pairs(config, rest, line))})


def _pairs(config: ImageConfig, rest: str, line: str) -> list[tuple[str, str]]:
    """``KEY=value KEY2="a value"``, or the old form ``KEY all that follows``."""
    first = rest.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise Invalid("change", line, "it must have the form KEY=value")
        return [(first[0], _expand(config, first[1], line))]
    pairs = []
    for word in _split(rest, line):
        key, equals, value = word.partition("=")
        key = _unquote(config, key, line)
        if not key or not equals:
            raise Invalid("change", line, f"{word!r} must have the form KEY=value")
        pairs.append((key, _unquote(config, value, line)))
    return pairs


def _split(text: str, line: str) -> list[str]:
    """Words at white space that is neither quoted nor escaped; quotes and backslashes are kept."""
    words, word, quote, at = [], "", "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'" and at + 1 < len(text):
            char += text[at + 1]
        elif char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        elif char.isspace() and not quote:
            words.append(word)
            word, char = "", ""
            at += 1
            continue
        word += char
        at += len(char)
    if quote:
        raise Invalid("change", line, f"a {quote} has no end")
    return [word for word in (*words, word) if word]


def _unquote(config: ImageConfig, word: str, line: str) -> str:
    """A word without its quotes, with variables put in except between single ones."""
    result = ""
    for part in re.findall(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|(?:\\.|[^'\"\\])+|.", word, re.DOTALL):
        if part[0] == "'" and len(part) > 1:
            result += part[1:-1]
        elif part[0] == '"' and len(part) > 1:
            result += _expand(config, part[1:-1], line, keep='"\\$')
        else:
            result += _expand(config, part, line)
    return result


def _expand(config: ImageConfig, text: str, line: str, keep: str = "") -> str:
    """``text`` with variables put in and escapes resolved; with ``keep``, only those of its characters."""
    values = dict(word.split("=", 1) for word in config.env)

    def replace(found: re.Match[str]) -> str:
        escaped, name, braced, other = found.groups()
        if escaped is not None:
            return escaped if not keep or escaped in keep else f"\\{escaped}"
        if other is not None:
            if other == "{":
                raise Invalid("change", line, "of ${...} only the form ${NAME} is understood")
            return f"${other}"
        return values.get(name or braced, "")

    return _VARIABLE.sub(replace, text)


def _workdir(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    path = posixpath.join("/", config.working_dir, _unquote(config, rest, line))
    return attrs.evolve(config, working_dir="/" + posixpath.normpath(path).lstrip("/"))


def _user(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    return attrs.evolve(config, user=_unquote(config, rest, line))


def _stopsignal(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    return attrs.evolve(config, stop_signal=check_signal(_expand(config, rest, line)))


def _expose(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    ports = dict.fromkeys(config.exposed_ports)
    for word in rest.split():
        found = _PORT.fullmatch(_expand(config, word, line))
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if found is None or not 1 <= low <= high <= 65535:
            raise Invalid("change", line, f"{word!r} must be PORT[-PORT][/tcp|udp|sctp]")
        ports.update(dict.fromkeys(f"{port}/{(found[3] or 'tcp').lower()}" for port in range(low, high + 1)))
    return attrs.evolve(config, exposed_ports=tuple(ports))


def _volume(config: ImageConfig, rest: str, line: str) -> ImageConfig:
    words = _json_words(rest)
    if words is None:
        words = tuple(_unquote(config, word, line) for word in _split(rest, line))
    if not words or not all(word.strip() for word in words):
        raise Invalid("change", line, "a volume is the path of a directory")
    return attrs.evolve(config, volumes=tuple(dict.fromkeys((*config.volumes, *words))))


_INSTRUCTIONS: Final[Mapping[str, Apply]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _on_config(_env),
    "EXPOSE": _on_config(_expose),
    "LABEL": _on_config(_label),
    "STOPSIGNAL": _on_config(_stopsignal),
    "USER": _on_config(_user),
    "VOLUME": _on_config(_volume),
    "WORKDIR": _on_config(_workdir),
}
_ALL: Final[Mapping[str, Apply]] = {**_INSTRUCTIONS, "HEALTHCHECK": _health, "ONBUILD": _on_build}
