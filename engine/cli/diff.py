"""``lading diff``: what changed between two moments, or in a container."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place, get_json, run_with_engine
from lading.engine.cli.complete import complete_container

if TYPE_CHECKING:
    from lading.engine.http.client import Client
    from lading.events.difference import Change, FieldChange

__all__ = ["COMMANDS"]

_ID = 12
"""How many digits of an id `ps` shows."""
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(
    epilog=(
        "\b\nExamples:\n  lading diff web\n  lading diff '2h ago' now\n"
        "  lading diff 1200 1260 --json\n  lading diff yesterday"
    )
)
@click.option("--json", "as_json", is_flag=True, help="One object a line, with the states before and after.")
@click.argument("before", metavar="CONTAINER|A", shell_complete=complete_container)
@click.argument("after", metavar="[B]", required=False)
@click.pass_obj
def diff(place: Place, before: str, after: str | None, as_json: bool) -> int:
    """Show what changed in a container, or between two moments.

    Of a container, as docker diff does: the files that are not its image's, A added, C changed, D deleted.

    A and B are positions, times (2026-01-31 10:00, UTC unless it says otherwise) or how long ago (2h); B is now
    unless given. Shown is what is left of the changes of containers, images, tags and claims: what came and went
    in between is in `lading log`. That reads the store itself, with or without an engine.
    """
    if after is None and _is_container(place, before):
        return _files(place, before, as_json)
    after = after or "now"
    import time
    from pathlib import Path

    from lading.engine.cli.tables import draw
    from lading.engine.queries import resolve_moment
    from lading.events.difference import differences
    from lading.storage.store import read_log

    log = read_log(Path(place.root))
    try:
        now = time.time_ns()
        positions = [resolve_moment(log, when, now) for when in (before, after)]
        changes = list(differences(log.at(positions[0]), log.at(positions[1])))
    finally:
        log.close()
    if as_json:
        for change in changes:
            print(json.dumps(_as_dict(change, positions), ensure_ascii=False))
    else:
        rows = ((_SIGNS[change.what], change.kind, change.name, _words(change)) for change in changes)
        draw(("", "KIND", "NAME", f"FROM {positions[0]} TO {positions[1]}"), rows)
    return 0


def _is_container(place: Place, name: str) -> bool:
    """Whether ``name`` is no moment; or one that is the name, or most of the id, of a container as well."""
    import time
    from pathlib import Path

    from lading.engine.queries import ContainerQueries
    from lading.events.errors import Ambiguous, Invalid, LadingError, NotFound
    from lading.events.moments import parse_moment
    from lading.storage.store import read_log

    try:
        parse_moment(name, time.time_ns())
    except Invalid:
        return True
    try:
        log = read_log(Path(place.root))
    except LadingError:
        return False
    try:
        found = ContainerQueries(log).get(name)
        return found.name == name or len(name) >= _ID
    except (NotFound, Ambiguous):
        return False
    finally:
        log.close()


def _files(place: Place, container: str, as_json: bool) -> int:
    from lading.engine.cli.tables import one_line

    async def work(client: Client) -> int:
        for change in await get_json(client, "containers", container, "changes") or ():
            if as_json:
                print(json.dumps(change, ensure_ascii=False))
            else:
                print("CAD"[change["Kind"]], one_line(change["Path"]))
        return 0

    return run_with_engine(place, work)


def _as_dict(change: Change, positions: list[int]) -> dict[str, Any]:
    import attrs

    def plain(value: Any) -> Any:
        return attrs.asdict(value) if attrs.has(type(value)) else value

    return {
        "from": positions[0],
        "to": positions[1],
        "kind": change.kind,
        "what": change.what,
        "key": change.key,
        "name": change.name,
        "fields": {field.field: [plain(field.before), plain(field.after)] for field in change.fields},
        "before": plain(change.before),
        "after": plain(change.after),
    }


def _words(change: Change) -> str:
    """What there is to say in one line."""
    from lading.engine.cli.tables import short_id

    if change.what != "changed":
        state = change.after if change.after is not None else change.before
        match change.kind:
            case "container":
                return f"{short_id(change.key)}, {state.phase}, from {state.spec.image_name}"
            case "image":
                return f"{short_id(change.key)}, layers: {len(state.layers)}"
            case "tag":
                return short_id(state.image)
            case "claim":
                return str(state.holder)
    return ", ".join(_field(field) for field in change.fields)


def _field(change: FieldChange) -> str:
    from lading.engine.cli.tables import short_id

    def shown(value: Any) -> str:
        if hasattr(value, "pid"):
            return str(value.pid)
        if isinstance(value, str) and value.startswith("sha256:"):
            return short_id(value)
        if isinstance(value, tuple):
            return " ".join(map(str, value)) or "none"
        return "none" if value in (None, "", 0) and value is not False else str(value)

    name = change.field.replace("_", " ")
    if change.field.endswith("_at"):
        from lading.events.moments import utc_time

        before, after = (
            "never" if value == 0 else utc_time(value)[:19] for value in (change.before, change.after)
        )
        return f"{name} {before} -> {after}"
    return f"{name} {shown(change.before)} -> {shown(change.after)}"


COMMANDS = (diff,)
