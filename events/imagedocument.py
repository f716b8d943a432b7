"""An image's config, written: that of an image made on top of another one, with one more step in its history.

Source: OCI image-spec v1.1, config.md; moby ``image/image.go`` (NewChildImage) for what a commit takes over. The
digest of what comes out is the image's id, so the same arguments give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from lading.events.dockerfilechanges import RunConfig
from lading.events.errors import ImageInvalid
from lading.events.ids import Digest
from lading.events.imageconfig import Healthcheck, HistoryEntry
from lading.events.strictjson import parse_object

__all__ = ["child_document", "encode_run", "with_diff_ids"]

_KEPT: Final[tuple[str, ...]] = ("architecture", "os", "variant", "os.version", "os.features")


def encode_run(run: RunConfig) -> dict[str, Any]:
    """``run`` as the ``config`` of an image's config; what is empty is left out."""
    config = run.config
    fields: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Volumes": {volume: {} for volume in config.volumes},
        "WorkingDir": config.working_dir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "OnBuild": list(run.on_build),
        "Shell": list(run.shell),
        "Healthcheck": _health(run.healthcheck),
    }
    return {name: value for name, value in fields.items() if value}


def _health(check: Healthcheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    fields = {
        "Test": list(check.test),
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {name: value for name, value in fields.items() if value}


def child_document(
    parent: bytes,
    run: RunConfig,
    diff_ids: Sequence[Digest],
    history: Iterable[HistoryEntry],
    *,
    created: str,
    author: str = "",
    comment: str = "",
    container: str = "",
) -> bytes:
    """The config of an image with the layers ``diff_ids``, made from the one whose config is ``parent``.

    ``history``: the steps that come after the parent's. ``created``: RFC 3339. Raises ``ImageInvalid`` for a
    parent that is no config.
    """
    old = _object(parent)
    steps = old.get("history") or []
    document: dict[str, Any] = {name: old[name] for name in _KEPT if name in old}
    document |= {
        "created": created,
        "config": encode_run(run),
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [*steps, *(_step(entry) for entry in history)],
    }
    for name, value in (("author", author), ("comment", comment), ("container", container)):
        if value:
            document[name] = value
    return _bytes(document)


def with_diff_ids(content: bytes, diff_ids: Sequence[Digest]) -> bytes:
    """The config ``content`` of an image whose layers turned out to be ``diff_ids``."""
    return _bytes(_object(content) | {"rootfs": {"type": "layers", "diff_ids": list(diff_ids)}})


def _step(entry: HistoryEntry) -> dict[str, Any]:
    return {name: value for name, value in attrs.asdict(entry).items() if value}


def _object(content: bytes) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError as error:
        raise ImageInvalid(f"the image's config is no JSON document: {error}") from None


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
