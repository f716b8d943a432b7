"""``lading logs``: what a container printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target
from lading.engine.cli.complete import complete_container

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["logs", "parse_time"]

_SPAN = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9.]+)s)?")
_SECONDS = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?")


def parse_time(text: str, now: float) -> str:
    """``text`` as the API's seconds since 1970, a decimal number.

    It may be that already, a span before ``now`` (``10m``, ``1h30m``), or a date, with a time or without, in
    ISO 8601; one without an offset is local. Raises ValueError.
    """
    if _SECONDS.fullmatch(text):
        return text
    span = _SPAN.fullmatch(text)
    if span is not None and any(span.groups()):
        hours, minutes, seconds = span.groups()
        return f"{now - int(hours or 0) * 3600 - int(minutes or 0) * 60 - float(seconds or 0):.9f}"
    from datetime import datetime

    # Nanoseconds are not for datetime, which has six digits.
    fraction = re.search(r"\.([0-9]{1,9})", text)
    whole = datetime.fromisoformat(text.replace(fraction[0], "") if fraction else text)
    return f"{int(whole.timestamp())}{fraction[0] if fraction else ''}"


def _time(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    import time

    if text is None:
        return None
    try:
        return parse_time(text, time.time())
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time: give 10m, 2025-01-31T10:00:00Z or seconds.") from None


def _tail(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdecimal()):
        raise click.BadParameter(f"{text!r} is neither a number nor 'all'.")
    return text


@click.command(epilog="\b\nExamples:\n  lading logs -f web\n  lading logs -t --since 10m --tail 20 web")
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.option(
    "-n", "--tail", default="all", metavar="LINES", callback=_tail, help="Only so many from the end.  [all]"
)
@click.option("-t", "--timestamps", is_flag=True, help="When each line came, in front of it.")
@click.option("--since", metavar="TIME", callback=_time, help="From then on: 10m, a date, or seconds.")
@click.option("--until", metavar="TIME", callback=_time, help="Up to then.")
@click.argument("container", shell_complete=complete_container)
@click.pass_obj
def logs(
    place: Place, container: str, follow: bool, tail: str, timestamps: bool, since: str | None, until: str | None
) -> int:
    """Show what a container printed.

    Its standard output goes to ours, its standard error to ours.
    """

    async def work(client: Client) -> int:
        from lading.engine.cli.attach import copy_streams

        where = target(
            "containers",
            container,
            "logs",
            stdout=1,
            stderr=1,
            follow=int(follow),
            tail=tail,
            timestamps=int(timestamps),
            since=since,
            until=until,
        )
        async with await client.request("GET", where, headers=CLIENT) as reply:
            await reply.check()
            await copy_streams(reply.stream())
        return 0

    return run_with_engine(place, work)
