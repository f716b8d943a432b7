"""An asynchronous, event-sourced container engine.

>>> import lading, trio
>>> async def main() -> None:
...     async with lading.open_engine("/var/lib/lading") as engine:
...         await engine.images.import_rootfs("rootfs.tar", "busybox:demo")
...         done = await engine.containers.run("busybox:demo", ["echo", "hello"])
...         print(done.stdout)
>>> trio.run(main)  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lading.engine.containers.container import Container
    from lading.engine.containers.containers import Containers
    from lading.engine.containers.mapping import Mapped
    from lading.engine.containers.output import LogPiece
    from lading.engine.containers.running import Completed
    from lading.engine.core import Caller
    from lading.engine.engine import Engine, open_engine
    from lading.engine.history.follow import CaughtUp, FellBehind
    from lading.engine.images.images import Images
    from lading.engine.images.loading import Loaded
    from lading.engine.images.progress import Progress
    from lading.engine.images.prune import Pruned
    from lading.engine.images.pushes import PushResult
    from lading.engine.images.untag import Removal
    from lading.engine.images.usage import DiskUsage, ImageUsage
    from lading.engine.queries import PastEngine
    from lading.engine.registry import Credentials, RegistrySettings
    from lading.events import errors
    from lading.events.container import ContainerState
    from lading.events.envelope import Actor, Record
    from lading.events.errors import LadingError
    from lading.events.image import ImageConfig, ImageState
    from lading.events.settings import (
        ContainerSettings,
        Device,
        HealthCheck,
        Mount,
        Resources,
        RestartPolicy,
        Ulimit,
    )
    from lading.storage.plan import Limits
    from lading.storage.store import read_log

__all__ = [
    "Actor",
    "Caller",
    "CaughtUp",
    "Completed",
    "Container",
    "ContainerSettings",
    "ContainerState",
    "Containers",
    "Credentials",
    "Device",
    "DiskUsage",
    "Engine",
    "FellBehind",
    "HealthCheck",
    "ImageConfig",
    "ImageState",
    "ImageUsage",
    "Images",
    "LadingError",
    "Limits",
    "Loaded",
    "LogPiece",
    "Mapped",
    "Mount",
    "PastEngine",
    "Progress",
    "Pruned",
    "PushResult",
    "Record",
    "RegistrySettings",
    "Removal",
    "Resources",
    "RestartPolicy",
    "Ulimit",
    "errors",
    "open_engine",
    "read_log",
]

_HOME = {
    "Actor": "lading.events.envelope",
    "Caller": "lading.engine.core",
    "CaughtUp": "lading.engine.history.follow",
    "Completed": "lading.engine.containers.running",
    "Container": "lading.engine.containers.container",
    "ContainerSettings": "lading.events.settings",
    "ContainerState": "lading.events.container",
    "Containers": "lading.engine.containers.containers",
    "Credentials": "lading.engine.registry",
    "Device": "lading.events.settings",
    "DiskUsage": "lading.engine.images.usage",
    "Engine": "lading.engine.engine",
    "FellBehind": "lading.engine.history.follow",
    "HealthCheck": "lading.events.settings",
    "ImageConfig": "lading.events.image",
    "ImageState": "lading.events.image",
    "ImageUsage": "lading.engine.images.usage",
    "Images": "lading.engine.images.images",
    "LadingError": "lading.events.errors",
    "Limits": "lading.storage.plan",
    "Loaded": "lading.engine.images.loading",
    "LogPiece": "lading.engine.containers.output",
    "Mapped": "lading.engine.containers.mapping",
    "Mount": "lading.events.settings",
    "PastEngine": "lading.engine.queries",
    "Progress": "lading.engine.images.progress",
    "Pruned": "lading.engine.images.prune",
    "PushResult": "lading.engine.images.pushes",
    "Record": "lading.events.envelope",
    "RegistrySettings": "lading.engine.registry",
    "Removal": "lading.engine.images.untag",
    "Resources": "lading.events.settings",
    "RestartPolicy": "lading.events.settings",
    "Ulimit": "lading.events.settings",
    "open_engine": "lading.engine.engine",
    "read_log": "lading.storage.store",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used: ``lading --help`` needs neither trio nor lmdb (PEP 562)."""
    if name == "errors":
        value: Any = import_module("lading.events.errors")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
