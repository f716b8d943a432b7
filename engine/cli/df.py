"""``lading df``: what a store takes on disk, its history included."""

from __future__ import annotations

import json

import click

from lading.engine.cli.client import Place

__all__ = ["COMMANDS"]


@click.command(epilog="\b\nExample:\n  lading df\n  lading df --json | jq .history")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, sizes in bytes.")
@click.pass_obj
def df(place: Place, as_json: bool) -> int:
    """Show what the store takes on disk.

    Images are shared by their containers, and the history is everything that ever happened: `lading compact`
    moves its old part into an archive. Reads the store itself, with or without an engine.
    """
    from pathlib import Path

    import attrs

    from lading.engine.cli.tables import draw, size
    from lading.events.container import status
    from lading.events.views import CONTAINERS, IMAGES
    from lading.storage.costs import history_costs
    from lading.storage.store import locate, read_log
    from lading.storage.trees import measure

    root = Path(place.root)
    log = read_log(root)
    try:
        paths = locate(root.resolve())
        states = [state for _, state in log.scan(CONTAINERS)]
        images = [image for _, image in log.scan(IMAGES)]
        used = {state.spec.image for state in states}
        history = history_costs(log, paths.archive)
        layers, blobs = measure(paths.layers).disk_bytes, measure(paths.blobs).disk_bytes
        writable = measure(paths.containers).disk_bytes
    finally:
        log.close()
    running = sum(status(state) == "running" for state in states)
    if as_json:
        found = {
            "images": {"total": len(images), "active": len(used), "size": layers + blobs},
            "containers": {"total": len(states), "active": running, "size": writable},
            "history": attrs.asdict(history),
        }
        print(json.dumps(found, indent=2))
        return 0
    rows = [
        ("Images", str(len(images)), str(len(used)), size(layers + blobs)),
        ("Containers", str(len(states)), str(running), size(writable)),
        ("History", str(history.parts["records"].entries), "", size(history.size)),
        *((f"  {name}", str(part.entries), "", size(part.size)) for name, part in history.parts.items()),
        ("Archives", str(history.archives), "", size(history.archive_size)),
    ]
    draw(("TYPE", "TOTAL", "ACTIVE", "SIZE"), rows)
    return 0


COMMANDS = (df,)
