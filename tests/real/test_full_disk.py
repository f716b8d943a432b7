"""An engine whose disk is full: it says so, writes no more, can still be asked, and is whole when there is room
again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

import lading
from lading.events.errors import LadingError, StoreBroken
from lading.storage.store import locate, read_log

pytestmark = [pytest.mark.real, pytest.mark.slow]


def fill(disk: Path, leave: int) -> Path:
    """Leave only so many bytes free."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    filler.write_bytes(bytes(max(room.f_bavail * room.f_frsize - leave, 0)))
    return filler


async def test_a_full_disk_is_told_and_everything_can_still_be_asked(small_disk: Path, busybox_tar: Path) -> None:
    root = small_disk / "store"
    made: list[str] = []
    with trio.fail_after(60):
        async with lading.open_engine(root) as engine:
            await engine.images.import_rootfs(busybox_tar, "busybox:1")
            made.append((await engine.containers.create("busybox:1", ["true"], name="first")).id)
            filler = fill(small_disk, 64 << 10)
            broken = ""
            while not broken:
                try:
                    container = await engine.containers.create("busybox:1", ["true", "x" * 5000])
                    made.append(container.id)
                except StoreBroken as error:
                    broken = str(error)
            assert "no space left on the disk of" in broken
            assert "make room, then open the store again" in broken
            for attempt in (
                lambda: engine.containers.create("busybox:1", ["true"]),
                lambda: engine.containers.get("first").start(),
                lambda: engine.containers.get("first").remove(),
            ):
                with pytest.raises(LadingError):
                    await attempt()
            assert {state.id for state in engine.containers.list()} == set(made)
            assert engine.containers.get("first").status == "created"
            assert (await engine.at("now")).containers.get("first").id == made[0]
            assert len(engine.log.read(limit=10**6)) == engine.log.position
        filler.unlink()
        log = read_log(root)
        assert log.verify().records == log.head()
        log.close()
        async with lading.open_engine(root) as engine:
            assert {state.id for state in engine.containers.list()} == set(made)
            done = await engine.containers.run("busybox:1", ["echo", "again"])
            assert done.stdout == b"again\n"
            verified = await engine.log.verify()
            assert verified.records == engine.log.position
    assert not locate(root).run.exists() or not list(locate(root).run.iterdir())
