"""Docker's options for how output is kept: ``LogConfig`` of type ``json-file``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lading.events.errors import Invalid

__all__ = ["parse_log_options"]

_KNOWN = {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?) ?([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_FILES = re.compile(r"0*([1-9][0-9]{0,4})", re.ASCII)
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


def parse_log_options(config: Mapping[str, str]) -> tuple[int, int]:
    """``log_size`` (bytes) and ``log_files`` of ``max-size`` and ``max-file``; (0, 0) if there is no ``max-size``.

    Sizes are decimal, as Docker reads them: ``10k`` is 10,000 bytes. One file is kept unless ``max-file`` says
    more. ``compress``, ``labels``, ``env`` and ``tag`` are known, and change nothing here. Raises ``Invalid`` for
    what Docker refuses, and for more than 99,999 files. Source: moby, ``daemon/logger/jsonfilelog``; go-units.
    """
    for key in config:
        if key not in _KNOWN:
            raise Invalid("log option", key, f"unknown log opt '{key}' for json-file log driver")
    size, files = 0, 1
    if "max-size" in config:
        found = _SIZE.fullmatch(config["max-size"])
        if found is None:
            raise Invalid("max-size", config["max-size"], "invalid size: give a number, with k, m or g after it")
        size = int(float(found[1]) * 1000 ** " kmgtp".index(found[2].lower() or " "))
        if not 0 < size < 1 << 63:
            raise Invalid("max-size", config["max-size"], "max-size must be a positive number")
    if "max-file" in config:
        found = _FILES.fullmatch(config["max-file"])
        if found is None:
            raise Invalid("max-file", config["max-file"], "max-file must be a number, and cannot be less than 1")
        files = int(found[1])
    if (compress := config.get("compress", "false")) not in _TRUE | _FALSE:
        raise Invalid("compress", compress, "give true or false")
    if compress in _TRUE and (files == 1 or not size):
        why = "compress cannot be true when max-file is less than 2 or max-size is not set"
        raise Invalid("compress", compress, why)
    return (size, files) if size else (0, 0)
