"""``lading df``: what a store takes on disk, its history included."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from lading.engine.cli.client import Place

if TYPE_CHECKING:
    from lading.engine.images.usage import DiskUsage, ImageUsage
    from lading.events.container import ContainerState
    from lading.storage.costs import HistoryCosts
    from lading.storage.store import Paths

__all__ = ["COMMANDS"]

Volume = tuple[str, int, int]
"""A volume's name, its size in bytes (-1: not known), and how many containers mount it."""


@click.command(epilog="\b\nExample:\n  lading df\n  lading df -v\n  lading df --json | jq .history")
@click.option("-v", "--verbose", is_flag=True, help="Each image, container and volume.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, sizes in bytes.")
@click.pass_obj
def df(place: Place, verbose: bool, as_json: bool) -> int:
    """Show what the store takes on disk.

    Images are shared by their containers, and layers by images. RECLAIMABLE is what `lading prune -a` would free
    at most. The history is everything that ever happened: `lading compact` moves its old part into an archive.
    Reads the store itself, with or without an engine.
    """
    from pathlib import Path

    from lading.engine.images.usage import disk_usage
    from lading.engine.volumes.volumes import volume_users
    from lading.events.containerviews import CONTAINERS, VOLUMES
    from lading.storage.costs import history_costs
    from lading.storage.store import locate, read_log
    from lading.storage.volumes import measure_volume

    root = Path(place.root)
    log = read_log(root)
    try:
        paths = locate(root.resolve())
        states = [state for _, state in log.scan(CONTAINERS)]
        users = volume_users(log)
        volumes = [(name, measure_volume(paths, name), len(users.get(name, ()))) for name, _ in log.scan(VOLUMES)]
        usage = disk_usage(log, paths)
        history = history_costs(log, paths.archive)
    finally:
        log.close()
    sizes = _sizes(paths, states)
    if as_json:
        print(json.dumps(_as_dict(usage, states, sizes, volumes, history), indent=2))
    elif verbose:
        _show_each(usage, states, sizes, volumes)
    else:
        _show(usage, states, sizes, volumes, history)
    return 0


def _sizes(paths: Paths, states: list[ContainerState]) -> dict[str, int]:
    """What each container's directory takes: what it wrote, and what it printed."""
    from lading.storage.trees import measure

    return {state.id: measure(paths.container(state.id)).disk_bytes for state in states}


def _runs(state: ContainerState) -> bool:
    from lading.events.container import status

    return status(state) == "running"


def _as_dict(
    usage: DiskUsage,
    states: list[ContainerState],
    sizes: dict[str, int],
    volumes: list[Volume],
    history: HistoryCosts,
) -> dict[str, Any]:
    import attrs

    stopped = [state for state in states if not _runs(state)]
    return {
        "images": {
            "total": len(usage.images),
            "active": sum(image.containers > 0 for image in usage.images),
            "size": usage.total,
            "reclaimable": usage.reclaimable,
            "layers": usage.layers,
            "archives": usage.archives,
            "documents": usage.documents,
            "each": [{**attrs.asdict(image), "unique": image.unique} for image in usage.images],
        },
        "containers": {
            "total": len(states),
            "active": len(states) - len(stopped),
            "size": sum(sizes.values()),
            "reclaimable": sum(sizes[state.id] for state in stopped),
            "each": [{"id": state.id, "name": state.name, "size": sizes[state.id]} for state in states],
        },
        "volumes": {
            "total": len(volumes),
            "active": sum(users > 0 for _, _, users in volumes),
            "size": _size_of(volumes),
            "reclaimable": _size_of([volume for volume in volumes if not volume[2]]),
            "each": [{"name": name, "size": size, "containers": users} for name, size, users in volumes],
        },
        "history": attrs.asdict(history),
    }


def _size_of(volumes: list[Volume]) -> int:
    return sum(max(size, 0) for _, size, _ in volumes)


def _show(
    usage: DiskUsage,
    states: list[ContainerState],
    sizes: dict[str, int],
    volumes: list[Volume],
    history: HistoryCosts,
) -> None:
    from lading.engine.cli.tables import draw, size

    active = sum(image.containers > 0 for image in usage.images)
    running = sum(map(_runs, states))
    written = sum(sizes.values())
    stopped = sum(sizes[state.id] for state in states if not _runs(state))
    rows = [
        ("Images", str(len(usage.images)), str(active), size(usage.total), _part(usage.reclaimable, usage.total)),
        ("  layers", "", "", size(usage.layers), ""),
        ("  their archives", "", "", size(usage.archives), ""),
        ("  documents", "", "", size(usage.documents), ""),
        ("Containers", str(len(states)), str(running), size(written), _part(stopped, written)),
        (
            "Volumes",
            str(len(volumes)),
            str(sum(users > 0 for _, _, users in volumes)),
            size(_size_of(volumes)),
            _part(_size_of([volume for volume in volumes if not volume[2]]), _size_of(volumes)),
        ),
        ("History", str(history.parts["records"].entries), "", size(history.size), ""),
        *((f"  {name}", str(part.entries), "", size(part.size), "") for name, part in history.parts.items()),
        ("Archives", str(history.archives), "", size(history.archive_size), ""),
    ]
    draw(("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"), rows)


def _part(count: int, total: int) -> str:
    from lading.engine.cli.tables import size

    return size(count) + (f" ({100 * count // total}%)" if total else "")


def _show_each(
    usage: DiskUsage, states: list[ContainerState], sizes: dict[str, int], volumes: list[Volume]
) -> None:
    from lading.engine.cli.tables import draw, short_id, size

    print("Images space usage:\n")
    names = ("REPOSITORY", "TAG", "IMAGE ID", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS")
    rows = []
    for image in sorted(usage.images, key=lambda image: (-image.unique, image.image)):
        amounts = (size(image.size), size(image.shared), size(image.unique), str(image.containers))
        rows.append((*_name(image), short_id(image.image), *amounts))
    draw(names, rows)
    print("\nContainers space usage:\n")
    draw(
        ("CONTAINER ID", "IMAGE", "STATUS", "SIZE", "NAMES"),
        (
            (short_id(state.id), state.spec.image_name, str(state.phase), size(sizes[state.id]), state.name)
            for state in sorted(states, key=lambda state: -sizes[state.id])
        ),
    )
    _show_volumes(volumes)


def _show_volumes(volumes: list[Volume]) -> None:
    from lading.engine.cli.tables import draw, size

    print("\nLocal Volumes space usage:\n")
    draw(
        ("VOLUME NAME", "LINKS", "SIZE"), ((name, str(users), size(max(used, 0))) for name, used, users in volumes)
    )


def _name(image: ImageUsage) -> tuple[str, str]:
    """Its first tag, as docker shows it."""
    from lading.events.reference import parse_reference

    names = [parse_reference(name) for name in image.names]
    tagged = next((name for name in names if name.digest is None), None)
    if tagged is not None:
        return tagged.repository, tagged.tag or "<none>"
    return (names[0].repository if names else "<none>"), "<none>"


COMMANDS = (df,)
