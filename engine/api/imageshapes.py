"""Images in the shapes that Docker's clients read, by the version that they speak.

Source: Docker Engine API v1.47 (ImageSummary, ImageInspect, HistoryResponseItem) and moby's image router (v27) for
what older versions get. What an image says of itself is told as its config document has it, the fields that this
release makes nothing of included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lading.engine.api.words import instant
from lading.engine.queries import created_at
from lading.events.image import ImageState
from lading.events.reference import parse_reference
from lading.storage.store import Paths

__all__ = ["familiar", "image_inspect", "image_summary", "repo_digests", "repo_tags"]

Json = dict[str, Any]
Version = tuple[int, int] | None
"""None is the newest."""

_CONFIG: Final[Mapping[str, object]] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
"""The fields that are always there (moby ``container.Config``)."""
_OPTIONAL: Final = frozenset(
    [
        "ExposedPorts",
        "Healthcheck",
        "ArgsEscaped",
        "NetworkDisabled",
        "MacAddress",
        "StopSignal",
        "StopTimeout",
        "Shell",
    ]
)


def familiar(name: str) -> str:
    """A full image name as people write it: ``busybox:latest``, ``busybox@sha256:...``."""
    return parse_reference(name).familiar


def repo_tags(names: Iterable[str]) -> list[str]:
    """Those of ``names`` (full ones) that are tags, as people write them."""
    return [familiar(name) for name in names if "@" not in name]


def repo_digests(names: Iterable[str]) -> list[str]:
    """Those of ``names`` (full ones) that say what a registry calls the image, as people write them."""
    return [familiar(name) for name in names if "@" in name]


def image_summary(
    image: ImageState, names: Sequence[str], version: Version, *, shared: int = -1, containers: int = -1
) -> Json:
    """An entry of the list, with those of its ``names`` (full ones) that it is listed for.

    ``shared``: bytes that other images have, too; ``containers``: how many are made of it; -1 is "not asked".
    """
    tags, digests = repo_tags(names), repo_digests(names)
    if version is not None and version < (1, 43) and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    return {
        "Id": image.image,
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": created_at(image) // 1_000_000_000,
        "Size": image.size,
        "SharedSize": shared,
        **({"VirtualSize": image.size} if version is not None and version < (1, 44) else {}),
        "Labels": dict(image.config.labels) or None,
        "Containers": containers,
    }


def image_inspect(
    image: ImageState, document: bytes | None, paths: Paths, tagged_at: int, version: Version
) -> Json:
    """All of an image, with what its config ``document`` says; without one, with what the log knows of that.

    ``tagged_at``: when it last got a name, nanoseconds UTC, 0 for never.
    """
    said = json.loads(document) if document is not None else _known(image)
    layers = [str(paths.layer(chain)) for chain in reversed(image.layers)]
    created = str(said.get("created") or "")
    shown = {
        "Id": image.image,
        "RepoTags": repo_tags(image.tags),
        "RepoDigests": repo_digests(image.tags),
        "Parent": "",
        "Comment": image.comment or _last_comment(said),
        "Created": created,
        "DockerVersion": said.get("docker_version") or "",
        "Author": said.get("author") or "",
        "Config": _config(said.get("config")),
        "Architecture": image.architecture,
        **({"Variant": said["variant"]} if said.get("variant") else {}),
        "Os": image.os,
        **({"OsVersion": said["os.version"]} if said.get("os.version") else {}),
        "Size": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": _overlay(layers)},
        "RootFS": {"Type": "layers", **({"Layers": list(image.diff_ids)} if image.diff_ids else {})},
        "Metadata": {"LastTagTime": instant(tagged_at)},
    }
    if version is not None and version < (1, 44):
        shown |= {"VirtualSize": image.size, "Created": created or instant(0)}
    if version is not None and version < (1, 45):
        shown |= {
            "Container": said.get("container") or "",
            "ContainerConfig": _config(said.get("container_config")),
        }
    return shown


def _known(image: ImageState) -> Json:
    config = image.config
    return {
        "created": image.created,
        "config": {
            "User": config.user,
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Env": list(config.env),
            "Cmd": list(config.cmd),
            "Volumes": {volume: {} for volume in config.volumes},
            "WorkingDir": config.working_dir,
            "Entrypoint": list(config.entrypoint),
            "Labels": dict(config.labels),
            "StopSignal": config.stop_signal,
        },
    }


def _last_comment(said: Json) -> str:
    history = said.get("history") or [{}]
    return str(history[-1].get("comment") or "")


def _overlay(layers: Sequence[str]) -> Json:
    if not layers:
        return {}
    return {"UpperDir": layers[0], **({"LowerDir": ":".join(layers[1:])} if layers[1:] else {})}


def _config(said: Any) -> Json:
    """A config with every field that Docker's has; what is empty in the document is empty here."""
    said = said if isinstance(said, dict) else {}
    shown = {name: said.get(name) or empty for name, empty in _CONFIG.items()}
    return shown | {name: said[name] for name in sorted(_OPTIONAL & said.keys()) if said[name]}
