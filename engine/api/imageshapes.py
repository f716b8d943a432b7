"""Images in the shapes that Docker's clients read, by the version that they speak.

Source: Docker Engine API v1.47 (ImageSummary, ImageInspect, HistoryResponseItem) and moby's image router (v27) for
what older versions get. What an image says of itself is told as its config document has it, the fields that this
release makes nothing of included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def _is(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) is kind else None


def _texts(value: Any) -> list[str] | None:
    return value if type(value) is list and all(type(each) is str for each in value) else None


def _command(value: Any) -> list[str] | None:
    """A string alone is a list of it (Docker's ``strslice``)."""
    return [value] if type(value) is str and value else _texts(value)


def _set(value: Any) -> dict[str, Json] | None:
    """An object whose values mean nothing."""
    return {key: {} for key in value} if type(value) is dict else None


def _mapping(value: Any) -> dict[str, str] | None:
    return value if type(value) is dict and all(type(each) is str for each in value.values()) else None


def _healthcheck(value: Any) -> Json | None:
    if type(value) is not dict:
        return None
    kinds = {
        "Test": list,
        **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), int),
    }
    found = {name: value[name] for name, kind in kinds.items() if type(value.get(name)) is kind and value[name]}
    return None if _texts(found.get("Test", [])) is None else found


_CONFIG: Final[Mapping[str, tuple[Callable[[Any], Any], object]]] = {
    **dict.fromkeys(("Hostname", "Domainname", "User"), (_is(str), "")),
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr"), (_is(bool), False)),
    **dict.fromkeys(("Tty", "OpenStdin", "StdinOnce"), (_is(bool), False)),
    "Env": (_texts, None),
    "Cmd": (_command, None),
    "Image": (_is(str), ""),
    "Volumes": (_set, None),
    "WorkingDir": (_is(str), ""),
    "Entrypoint": (_command, None),
    "OnBuild": (_texts, None),
    "Labels": (_mapping, None),
}
"""The fields that are always there (moby ``container.Config``): how each is read, and what an empty one is."""
_OPTIONAL: Final[Mapping[str, Callable[[Any], Any]]] = {
    "ExposedPorts": _set,
    "Healthcheck": _healthcheck,
    "ArgsEscaped": _is(bool),
    "NetworkDisabled": _is(bool),
    "MacAddress": _is(str),
    "StopSignal": _is(str),
    "StopTimeout": _is(int),
    "Shell": _command,
}


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
    created = _text(said, "created")
    shown = {
        "Id": image.image,
        "RepoTags": repo_tags(image.tags),
        "RepoDigests": repo_digests(image.tags),
        "Parent": "",
        "Comment": image.comment or _last_comment(said),
        "Created": created,
        "DockerVersion": _text(said, "docker_version"),
        "Author": _text(said, "author"),
        "Config": _config(said.get("config")),
        "Architecture": image.architecture,
        **({"Variant": variant} if (variant := _text(said, "variant")) else {}),
        "Os": image.os,
        **({"OsVersion": version_of} if (version_of := _text(said, "os.version")) else {}),
        "Size": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": _overlay(layers)},
        "RootFS": {"Type": "layers", **({"Layers": list(image.diff_ids)} if image.diff_ids else {})},
        "Metadata": {"LastTagTime": instant(tagged_at)},
    }
    if version is not None and version < (1, 44):
        shown |= {"VirtualSize": image.size, "Created": created or instant(0)}
    if version is not None and version < (1, 45):
        shown |= {
            "Container": _text(said, "container"),
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


def _text(said: Json, name: str) -> str:
    value = said.get(name)
    return value if type(value) is str else ""


def _last_comment(said: Json) -> str:
    history = said.get("history")
    last = history[-1] if type(history) is list and history else None
    return _text(last, "comment") if type(last) is dict else ""


def _overlay(layers: Sequence[str]) -> Json:
    if not layers:
        return {}
    return {"UpperDir": layers[0], **({"LowerDir": ":".join(layers[1:])} if layers[1:] else {})}


def _config(said: Any) -> Json:
    """A config with every field that Docker's has. What has another type than clients expect is left out.

    (The engine refuses images with such fields where it makes something of them itself.)
    """
    said = said if type(said) is dict else {}
    shown = {name: read(said.get(name)) or empty for name, (read, empty) in _CONFIG.items()}
    optional = {name: read(said.get(name)) for name, read in _OPTIONAL.items()}
    return shown | {name: value for name, value in optional.items() if value}
