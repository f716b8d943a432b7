"""``lading verify``: whether the history is what was written, and agrees with the machine."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place

if TYPE_CHECKING:
    from lading.storage.log import Log
    from lading.storage.seal import Held
    from lading.storage.verify import Verified

__all__ = ["COMMANDS"]

_LONGEST = 1 << 16


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading verify\n"
        "  lading verify --seal /mnt/elsewhere/monday.seal --key ~/lading.key.pub\n"
        "  lading verify /var/lib/lading/archive/*.jsonl.gz"
    )
)
@click.option(
    "--seal", type=click.Path(dir_okay=False), help="Prove that nothing is otherwise than when it was made."
)
@click.option(
    "--key", type=click.Path(dir_okay=False), help="The public key (PEM) that the seal must be made with."
)
@click.option("--no-host", is_flag=True, help="Only the log, not the machine.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.argument("archives", nargs=-1, type=click.Path(dir_okay=False), metavar="[ARCHIVE]...")
@click.pass_obj
def verify(
    place: Place,
    seal: str | None,
    key: str | None,
    no_host: bool,
    as_json: bool,
    archives: tuple[str, ...],
) -> int:
    """Check every byte of the history.

    Hashes the chain again, decodes every record, folds the views aside and compares them byte for byte, and
    compares the log with the machine: processes, mounts, directories. Damage is told by its position. Works
    with or without an engine, in a process of its own. Exits with 1 if anything is wrong.
    """
    if (seal is None) != (key is None):
        raise click.UsageError("--seal and --key go together.")
    report = _Report(as_json)
    _examine(place, report, seal, key, archives, no_host)
    return report.finish()


class _Report:
    """What was found so far: a line each, or one object at the end."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._found: dict[str, Any] = {"ok": True}

    def say(self, what: str, words: str, **facts: Any) -> None:
        self._found[what] = facts
        if not self._as_json:
            print(f"{what + ':':<10} {words}")

    def wrong(self, what: str, words: str, **facts: Any) -> None:
        from lading.engine.cli.tables import one_line

        self._found["ok"] = False
        self._found.setdefault("wrong", []).append({"what": what, "why": words, **facts})
        if not self._as_json:
            print(f"{what + ':':<10} WRONG: {one_line(words)}")

    def finish(self) -> int:
        if self._as_json:
            print(json.dumps(self._found, indent=2))
        return 0 if self._found["ok"] else 1


def _examine(
    place: Place, report: _Report, seal: str | None, key: str | None, archives: tuple[str, ...], no_host: bool
) -> None:
    from pathlib import Path

    import trio

    from lading.engine.cli.progress import showing_progress
    from lading.engine.history.verifier import verify_aside
    from lading.events.errors import HistoryInvalid, StoreCorrupt
    from lading.storage.store import read_identity, read_log

    root = Path(place.root)
    store = read_identity(root)
    try:
        with showing_progress("verifying") as told:
            verified = trio.run(verify_aside, root, told)
    except StoreCorrupt as error:
        report.wrong("log", str(error), position=error.position)
        return  # what can't be read can't be compared
    _tell(report, verified)
    log = read_log(root)
    try:
        asked = _read_seal(seal) if seal else None
        try:
            marked = _check_archives(report, log, store, archives, asked.position if asked else None)
            if asked is not None and key is not None:
                held = _check_seal(asked, key, log, store, marked)
                words = (
                    f"of {held.seal.sealed[:19]}Z holds: nothing up to position {held.seal.position} was changed"
                )
                report.say("seal", words, position=held.seal.position, key=held.seal.public_key)
        except HistoryInvalid as error:
            report.wrong("proof", str(error), position=getattr(error, "position", 0))
        except StoreCorrupt as error:
            report.wrong("proof", str(error), position=error.position)
        if not no_host:
            _compare_host(report, root, log)
    finally:
        log.close()


def _tell(report: _Report, verified: Verified) -> None:
    last = verified.first + verified.records - 1
    span = f"{verified.first} to {last}" if verified.records else "none"
    report.say(
        "records",
        f"{verified.records:,} ({span}): each follows from the one before, chain {verified.chain.hex()[:16]}",
        first=verified.first,
        last=last,
        chain=verified.chain.hex(),
    )
    report.say(
        "views",
        f"{verified.states:,} states and {verified.snapshots:,} snapshots, byte for byte what the records give",
        states=verified.states,
        snapshots=verified.snapshots,
    )


def _read_seal(path: str) -> Any:
    from lading.storage.seal import parse_seal

    with open(path, "rb") as file:
        return parse_seal(file.read(_LONGEST))


def _check_seal(seal: Any, key: str, log: Log, store: str, marked: bytes | None) -> Held:
    from lading.storage.seal import check_seal

    with open(key, "rb") as file:
        public = file.read(_LONGEST)
    base = log.base
    return check_seal(seal, public, log, store, after=base.position, chain=base.chain, archived=marked)


def _check_archives(
    report: _Report, log: Log, store: str, archives: tuple[str, ...], mark: int | None
) -> bytes | None:
    """The chain at position ``mark``, as far as the archives have it."""
    if not archives:
        return None
    from lading.storage.archives import check_archives

    with contextlib.ExitStack() as stack:
        sources = [(path, stack.enter_context(open(path, "rb"))) for path in archives]
        archived = check_archives(log, store, sources, mark)
    words = f"1 to {archived.last}: the log goes on where they end, with the states that they led to"
    report.say("archives", words, last=archived.last)
    return archived.marked


def _compare_host(report: _Report, root: Any, log: Log) -> None:
    from lading.engine.agreement import differences_from_host
    from lading.storage.store import locate

    differences = differences_from_host(locate(root.resolve()), log)
    for each in differences:
        report.wrong(each.kind, f"{each.what[:19]}: {each.why}; {each.todo}", key=each.what)
    if not differences:
        report.say("host", "its processes, mounts and directories are those of the log")


COMMANDS = (verify,)
