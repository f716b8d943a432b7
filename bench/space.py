"""What a container costs on disk: bytes added by each of a hundred containers from one image, once they ran.

Counted as ``du`` counts, over the whole store: writable layers, output, and the log itself.

    python bench/space.py [--containers N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import trio
from _image import busybox_tar
from _report import Report

import lading
from lading.storage.trees import measure

IMAGE = "busybox:bench"


def used(root: Path) -> int:
    """Bytes on disk of everything below ``root``."""
    return measure(root).disk_bytes


async def main(containers: int) -> None:
    report = Report("space")
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        directory = Path(name)
        root = directory / "root"
        async with lading.open_engine(root) as engine:
            image = await engine.images.import_rootfs(busybox_tar(directory), IMAGE)
            before = used(root)
            for _ in range(containers):
                container = await engine.containers.create(IMAGE, ["/bin/sh", "-c", "echo hello"])
                await container.start()
                await container.wait()
            for supervisor in list(engine.core.live.values()):
                await supervisor.done.wait()
            after = used(root)
            layers = used(root / "containers")
            report.add("image", image.size, "bytes", n=1)
            report.add("added by each container", (after - before) / containers, "bytes", n=containers)
            report.add("of which writable layer and output", layers / containers, "bytes", n=containers)
            report.add("of which history", (after - before - layers) / containers, "bytes", n=containers)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=100)
    trio.run(main, parser.parse_args().containers)
