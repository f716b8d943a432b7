"""JSON from strangers: one object, with nothing in it that a later step would choke on.

Python's decoder takes more than RFC 8259 allows, and more than can be written back: NaN and infinities, names
given twice (the last one silently wins), lone surrogates, nesting up to the recursion limit.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["DEPTH_LIMIT", "parse", "parse_object"]

DEPTH_LIMIT = 64
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that ``raw`` is; otherwise as `parse`."""
    value = parse(raw)
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object")
    return value


def parse(raw: bytes) -> Any:
    """The JSON value that ``raw`` is, in UTF-8.

    Raises ValueError, with a text fit for the sender, for anything but exactly one value; for NaN, numbers
    beyond a double, duplicate names, lone surrogates; and for more than `DEPTH_LIMIT` levels.
    """
    try:
        value = json.loads(
            raw.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH_LIMIT} levels") from None
    if raw.count(b"{") + raw.count(b"[") > DEPTH_LIMIT:
        _check_depth(value)
    if _SURROGATE_ESCAPE.search(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a string in it has half of a surrogate pair") from None
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number in it is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object in it has the same name twice")
    return result


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        deeper: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            deeper.extend(child for child in children if isinstance(child, (dict, list)))
        if not deeper:
            return
        level = deeper
    raise ValueError(f"it is nested deeper than {DEPTH_LIMIT} levels")
