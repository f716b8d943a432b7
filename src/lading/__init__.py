"""An asynchronous, event-sourced container engine.

>>> import lading, trio
>>> async def main() -> None:
...     async with lading.open_engine("/var/lib/lading") as engine:
...         await engine.images.import_rootfs("rootfs.tar", "busybox:demo")
...         done = await engine.containers.run("busybox:demo", ["echo", "hello"])
...         print(done.stdout)
>>> trio.run(main)  # doctest: +SKIP
"""

from lading.engine.containers import Completed, Container, Containers
from lading.engine.core import Caller
from lading.engine.engine import Engine, open_engine
from lading.engine.images import Images
from lading.engine.output import LogPiece
from lading.events import errors
from lading.events.container import ContainerState
from lading.events.envelope import Actor, Record
from lading.events.errors import LadingError
from lading.events.image import ImageConfig, ImageState

__all__ = [
    "Actor",
    "Caller",
    "Completed",
    "Container",
    "ContainerState",
    "Containers",
    "Engine",
    "ImageConfig",
    "ImageState",
    "Images",
    "LadingError",
    "LogPiece",
    "Record",
    "errors",
    "open_engine",
]
