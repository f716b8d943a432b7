"""The options of `run` and `create` for health, restarts, deadlines and logs, in the API's JSON.

Source: docker/cli ``cli/command/container/opts.go`` (v27). ``--timeout`` and ``--restart-unhealthy`` are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from lading.engine.cli.quantities import DURATION, RESTART

__all__ = ["health_options", "health_request"]

F = TypeVar("F", bound=Callable[..., Any])

_FIELDS: Final = {
    "health_interval": "Interval",
    "health_timeout": "Timeout",
    "health_start_period": "StartPeriod",
    "health_start_interval": "StartInterval",
    "health_retries": "Retries",
}


def _log_options(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE.")
        found[name] = value
    return found


def _duration(name: str, what: str) -> Callable[[F], F]:
    return click.option(name, type=DURATION, metavar="DURATION", help=what)


_OPTIONS: Final = (
    click.option("--health-cmd", metavar="COMMAND", help="A shell command that succeeds while all is well."),
    _duration("--health-interval", "From one check to the next.  [30s]"),
    _duration("--health-timeout", "How long a check may take.  [30s]"),
    click.option("--health-retries", type=int, metavar="NUMBER",
                 help="Failures in a row that make it unhealthy.  [3]"),
    _duration("--health-start-period", "Failures at first that don't count.  [0s]"),
    _duration("--health-start-interval", "From one check to the next in that time.  [5s]"),
    click.option("--no-healthcheck", is_flag=True, help="Without the image's check."),
    click.option("--restart-unhealthy", is_flag=True, help="Run it again when it is unhealthy."),
    click.option("--restart", type=RESTART, metavar="POLICY",
                 help="no, on-failure[:MAX], always or unless-stopped: after its end.  [no]"),
    _duration("--timeout", "Stop it when it has run for so long."),
    click.option("--init", is_flag=True, help="Run an init in it that reaps processes."),
    click.option("--log-driver", metavar="NAME", help="json-file, or local.  [json-file]"),
    click.option("--log-opt", multiple=True, metavar="NAME=VALUE", callback=_log_options,
                 help="max-size=10m, max-file=3: how much of its output is kept."),
)  # fmt: skip


def health_options(command: F) -> F:
    """Add the options. Their values make ``health_request``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def health_request(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs into the body of ``POST /containers/create``, and what into its ``HostConfig``.

    Raises ``click.UsageError`` for options that contradict each other.
    """
    check = {field: options[name] for name, field in _FIELDS.items() if options.get(name)}
    if options.get("health_cmd"):
        check["Test"] = ["CMD-SHELL", options["health_cmd"]]
    if options.get("no_healthcheck"):
        if check:
            raise click.UsageError("--no-healthcheck conflicts with --health-* options.")
        check = {"Test": ["NONE"]}
    if options.get("remove") and (options.get("restart") or {}).get("Name") not in (None, "", "no"):
        raise click.UsageError("--restart and --rm conflict: what is restarted can't be removed.")
    host: dict[str, Any] = {}
    if options.get("restart"):
        host["RestartPolicy"] = options["restart"]
    if options.get("restart_unhealthy"):
        host["LadingRestartUnhealthy"] = True
    if options.get("timeout"):
        host["LadingDeadline"] = options["timeout"]
    if options.get("init"):
        host["Init"] = True
    if options.get("log_driver") or options.get("log_opt"):
        host["LogConfig"] = {"Type": options.get("log_driver") or "", "Config": options.get("log_opt") or {}}
    return ({"Healthcheck": check} if check else {}), host
