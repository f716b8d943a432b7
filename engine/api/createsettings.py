"""What a request says about restarts, health, logs, names and memory for devices: with moby's words.

Source: Docker Engine API v1.47, ContainerCreate; moby ``daemon/container.go`` (validateHostConfig,
validateHealthCheck), ``api/types/container/hostconfig.go``, ``daemon/logger/jsonfilelog`` and ``local`` (v27).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from lading.engine.api.fields import flag, integer, mapping, object_of, only, refuse, text, words
from lading.engine.api.request import not_supported
from lading.events.errors import Invalid
from lading.events.settingchecks import extra_host
from lading.events.settings import DEFAULT_SHM_SIZE, HealthCheck, RestartName, RestartPolicy

__all__ = ["HEALTH_FIELDS", "SETTING_FIELDS", "parse_health", "parse_restart", "parse_settings"]

SETTING_FIELDS: Final = frozenset(
    {
        *("RestartPolicy", "LogConfig", "ShmSize", "OomScoreAdj", "Init", "ExtraHosts", "Dns", "DnsSearch"),
        *("DnsOptions", "LadingDeadline", "LadingRestartUnhealthy"),
    }
)
"""The fields of ``HostConfig`` that are read by ``parse_settings``."""
HEALTH_FIELDS: Final = frozenset(("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"))

_RESTARTS: Final = ("no", "always", "on-failure", "unless-stopped")
_LEAST: Final = 1_000_000
_HUMAN_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([kKmMgGtTpP]?)(?:[iI]?[bB])?")
_THOUSANDS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_LOCAL_SIZE: Final = 20 * 10**6
_LOCAL_FILES: Final = 5
_MOST_FILES: Final = 1000


def parse_settings(body: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``ContainerSettings``. Raises `HttpError` 400, and 501 for a kind of log that isn't here."""
    restart = parse_restart(host)
    if flag(host, "AutoRemove") and restart.name != "no":
        raise refuse("can't create 'AutoRemove' container with restart policy")
    shm, score = integer(host, "ShmSize"), integer(host, "OomScoreAdj")
    if shm < 0:
        raise refuse("SHM size can not be less than 0")
    if not -1000 <= score <= 1000:
        raise refuse(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
    deadline = integer(host, "LadingDeadline")
    if deadline < 0:
        raise refuse("invalid LadingDeadline: it can not be less than 0")
    size, files = _log(object_of(host, "LogConfig"))
    return {
        "tty": flag(body, "Tty"),
        "init": flag(host, "Init"),
        "restart": restart,
        "restart_unhealthy": flag(host, "LadingRestartUnhealthy"),
        "deadline": deadline,
        "shm_size": shm or DEFAULT_SHM_SIZE,
        "oom_score": score,
        "domainname": text(body, "Domainname"),
        "extra_hosts": _extra_hosts(host),
        "dns": words(host, "Dns") or (),
        "dns_search": words(host, "DnsSearch") or (),
        "dns_options": words(host, "DnsOptions") or (),
        "log_size": size,
        "log_files": files,
    }


def parse_restart(source: Mapping[str, Any]) -> RestartPolicy:
    """``RestartPolicy`` of ``source``; one without a name is none. Raises `HttpError` 400."""
    policy = object_of(source, "RestartPolicy")
    only(policy, "RestartPolicy", frozenset(("Name", "MaximumRetryCount")))
    name, most = text(policy, "Name"), integer(policy, "MaximumRetryCount", bits=32)
    if not name:
        return RestartPolicy()
    if name not in _RESTARTS:
        raise refuse(
            f"invalid restart policy: unknown policy '{name[:80]}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if name == "on-failure":
        if most < 0:
            raise refuse("invalid restart policy: maximum retry count cannot be negative")
    elif most:
        negative = " and cannot be negative" if most < 0 else ""
        raise refuse(f"invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}")
    return RestartPolicy(cast("RestartName", name), most)


def parse_health(body: Mapping[str, Any]) -> HealthCheck | None:
    """``Healthcheck`` of ``body``, as far as it says anything: 0 and empty are for the image to fill in.

    None if there is none. Raises `HttpError` 400.
    """
    if body.get("Healthcheck") is None:
        return None
    asked = object_of(body, "Healthcheck")
    only(asked, "Healthcheck", HEALTH_FIELDS)
    test = words(asked, "Test") or ()
    if any("\0" in word for word in test):
        raise refuse("invalid Healthcheck: its test has a NUL byte")
    if test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise refuse(f"Unknown healthcheck type {test[0][:80]!r} (expected 'NONE', 'CMD' or 'CMD-SHELL')")
    if test and test[0] != "NONE" and not any(test[1:]):
        raise refuse(f"invalid Healthcheck: {test[0]} needs a command")
    retries = integer(asked, "Retries", bits=32)
    if retries < 0:
        raise refuse("Retries in Healthcheck cannot be negative")
    return HealthCheck(
        test,
        interval=_time(asked, "Interval"),
        timeout=_time(asked, "Timeout"),
        start_period=_time(asked, "StartPeriod"),
        start_interval=_time(asked, "StartInterval"),
        retries=retries,
    )


def _time(asked: Mapping[str, Any], name: str) -> int:
    value = integer(asked, name)
    if value and value < _LEAST:
        raise refuse(f"{name} in Healthcheck cannot be less than 1ms")
    return value


def _log(config: Mapping[str, Any]) -> tuple[int, int]:
    """``LogConfig`` as ``log_size`` and ``log_files``."""
    only(config, "LogConfig", frozenset(("Type", "Config")))
    driver, options = text(config, "Type"), mapping(config, "Config")
    if driver == "none":
        raise not_supported(
            "a container whose output is not kept (--log-driver none; the options max-size and max-file limit it)"
        )
    if driver not in ("", "json-file", "local"):
        raise refuse(
            f"logger: no log driver named '{driver[:80]}' is registered: there are 'json-file' and 'local'"
        )
    local = driver == "local"
    size, files = (_LOCAL_SIZE, _LOCAL_FILES) if local else (0, 0)
    for name, value in options.items():
        match name:
            case "max-size":
                size = _human_size(value)
            case "max-file":
                files = _file_count(value)
            case "mode" if value in ("", "blocking"):
                pass
            case "compress" if value in ("false", "0", "f", "F", "FALSE", "False"):
                pass
            case "compress" | "mode" | "max-buffer-size" | "labels" | "labels-regex" | "env" | "env-regex" | "tag":
                raise not_supported(f"the log option {name} (--log-opt)")
            case _:
                raise refuse(f"unknown log opt '{name[:80]}' for {driver or 'json-file'} log driver")
    return size, files or (1 if size else 0)


def _human_size(value: str) -> int:
    """Powers of 1000, as Docker reads the sizes of logs."""
    found = _HUMAN_SIZE.fullmatch(value)
    size = int(float(found[1]) * _THOUSANDS[found[2].lower()]) if found else 0
    if not 0 < size < 2**63:
        raise refuse(f"invalid log opt max-size {value[:80]!r}: max-size must be a positive number")
    return size


def _file_count(value: str) -> int:
    count = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if not 1 <= count <= _MOST_FILES:
        raise refuse(f"invalid log opt max-file {value[:80]!r}: it is from 1 to {_MOST_FILES}")
    return count


def _extra_hosts(host: Mapping[str, Any]) -> tuple[str, ...]:
    found = words(host, "ExtraHosts") or ()
    for entry in found:
        name, colon, address = entry.partition(":")
        if not colon or not name:
            raise refuse(f"bad format for add-host: {entry[:120]!r}")
        if address == "host-gateway":
            raise not_supported("the address host-gateway (--add-host)")
        try:
            extra_host(entry)
        except Invalid:
            raise refuse(f"invalid name or IP address in add-host: {entry[:120]!r}") from None
    return found
