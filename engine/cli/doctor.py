"""``lading doctor``: whether this machine and this store are fit, and what to do where they aren't."""

from __future__ import annotations

import json

import click

from lading.engine.cli.client import Place

__all__ = ["COMMANDS"]


@click.command(epilog="\b\nExamples:\n  lading doctor\n  lading --root /srv/lading doctor --json")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def doctor(place: Place, as_json: bool) -> int:
    """Check the machine and the store.

    Says what to do about whatever is wrong. Tries the real thing: an overlay mount beside the root, and each OCI
    runtime. Takes a second, changes nothing, and exits with 1 if something is wrong.
    """
    import attrs

    from lading.engine.cli.checks import State, examine
    from lading.engine.cli.tables import draw, one_line

    checks = examine(place)
    wrong = any(check.state is State.WRONG for check in checks)
    if as_json:
        print(json.dumps({"ok": not wrong, "checks": [attrs.asdict(check) for check in checks]}, indent=2))
        return int(wrong)
    draw(("CHECK", "STATE", "FOUND"), ((check.name, check.state, check.found) for check in checks))
    todo = [check for check in checks if check.todo]
    if todo:
        print()
    for check in todo:
        print(f"{check.name}: {one_line(check.todo)}")
    return int(wrong)


COMMANDS = (doctor,)
