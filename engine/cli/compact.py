"""``lading compact``: old records leave the log for an archive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target

if TYPE_CHECKING:
    from lading.engine.http.client import Client

__all__ = ["COMMANDS"]


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading compact --before '90 days ago'\n"
        "  lading compact --before 100000 && lading df\n"
        "  lading verify /var/lib/lading/archive/*.jsonl.gz"
    )
)
@click.option(
    "--before", required=True, metavar="WHEN", help="A position, a time such as '2026-01-31', or '90 days ago'."
)
@click.option("--json", "as_json", is_flag=True, help="What was recorded, as one JSON object.")
@click.pass_obj
def compact(place: Place, before: str, as_json: bool) -> int:
    """Move old history into an archive file.

    By default everything is kept for ever. This moves the records up to WHEN into a file in the store's
    directory `archive`, and records that it did. What they led to stays: every container, image and tag is as
    before. Queries about the time before WHEN are refused then, but `lading verify` with the archives still
    proves the whole history, and `lading import-log` with the archives in order makes a store that has all of
    it. The files may be moved elsewhere.
    """

    async def work(client: Client) -> int:
        where = target("lading", "compact", before=before)
        async with await client.request("POST", where, headers=CLIENT) as reply:
            await reply.check()
            found = await reply.json()
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            count = found["last"] - found["first"] + 1
            print(f"{count} records, {found['first']} to {found['last']}, are in")
            print(f"{found['directory']}/{found['archive']}")
        return 0

    return run_with_engine(place, work)


COMMANDS = (compact,)
