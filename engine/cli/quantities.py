"""Sizes, durations and other quantities as docker writes them on a command line.

Sources: docker/go-units ``RAMInBytes`` (powers of 1024), Go's ``time.ParseDuration``, docker/cli ``opts/opts.go``
(ParseCPUs, MemSwapBytes) and ``opts/parse.go`` (ParseRestartPolicy).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

__all__ = [
    "CPUS",
    "DURATION",
    "RESTART",
    "SIZE",
    "SWAP",
    "binary_size",
    "parse_cpus",
    "parse_duration",
    "parse_restart",
    "parse_size",
    "parse_swap",
]

_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?) ?(?:([kKmMgGtTpP])(?:[iI]?[bB])?|[bB])?")
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_DURATION: Final = re.compile(r"(?:[0-9]{1,19}(?:\.[0-9]{0,19})?(?:ns|us|µs|μs|ms|s|m|h))+")
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
                       "h": 3600 * 10**9}  # fmt: skip
_NUMBER: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,18})?|\.[0-9]{1,18}")
_COUNT: Final = re.compile(r"-?[0-9]{1,9}")
_MOST: Final = 2**63 - 1
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def parse_size(text: str) -> int:
    """Bytes: ``512m``, ``1.5GiB``, ``4096``; ``ValueError`` for what is none."""
    from fractions import Fraction

    found = _SIZE.fullmatch(text)
    size = int(Fraction(found[1]) * (1 << _UNITS[(found[2] or "").lower()])) if found else -1
    if not 0 <= size <= _MOST:
        raise ValueError(f"{text!r} is no size: give bytes, or 512m, 1.5g")
    return size


def parse_swap(text: str) -> int:
    """As ``parse_size``, or -1: no limit."""
    return -1 if text == "-1" else parse_size(text)


def parse_duration(text: str) -> int:
    """Nanoseconds: ``1m30s``, ``1.5h``, ``300ms``, ``0``; ``ValueError`` for what is none."""
    from fractions import Fraction

    if text == "0":
        return 0
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no duration: give 30s, 1m30s, 1.5h")
    total = int(sum(Fraction(count.rstrip(".")) * _NANOSECONDS[unit] for count, unit in _PART.findall(text)))
    if total > _MOST:
        raise ValueError(f"{text!r} is longer than 292 years")
    return total


def parse_cpus(text: str) -> int:
    """Billionths of a CPU: ``1.5``; ``ValueError`` for what is none, or finer than that."""
    from fractions import Fraction

    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no number of CPUs: give 2 or 0.5")
    nano = Fraction(text) * 10**9
    if nano.denominator != 1:
        raise ValueError(f"{text!r} is too precise")
    return int(nano)


def parse_restart(text: str) -> dict[str, Any]:
    """``no``, ``always``, ``unless-stopped`` or ``on-failure[:MAX]`` as the API's ``RestartPolicy``.

    Only its form is checked here. Raises ``ValueError``.
    """
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if count and _COUNT.fullmatch(count) is None:
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def binary_size(count: float) -> str:
    """``count`` bytes in powers of 1024 and four digits, as ``docker stats`` shows memory: ``1.5MiB``."""
    unit = 0
    while count >= 1024 and unit < len(_BINARY) - 1:
        count /= 1024
        unit += 1
    return f"{count:.4g}{_BINARY[unit]}"


class _Quantity(click.ParamType[Any]):
    """An option's type whose values are read by ``parse``, which raises ``ValueError``."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


SIZE: Final = _Quantity("size", parse_size)
SWAP: Final = _Quantity("size", parse_swap)
DURATION: Final = _Quantity("duration", parse_duration)
CPUS: Final = _Quantity("number", parse_cpus)
RESTART: Final = _Quantity("policy", parse_restart)
