"""The engine dies at each step of commits, forks and what finds out their digests.

Nothing that a container wrote is lost, and there is all of an image or nothing of it.

See ``boundaries``.
"""

from __future__ import annotations

import io
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
from stage import IMAGE, Census, Stage, agree, children, empty, output_of

import lading
from lading.events.errors import NotFound
from lading.events.reach import reach
from lading.events.views import LAYERS
from lading.storage.overlay import mounts_below

sys.path.insert(0, str(Path(__file__).parent))
from boundaries import PARTS, PRELUDE, die_at_each_step

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.long]

SEALING = (
    PRELUDE
    + """
import lading.storage.sealing
import lading.engine.files.sealing, lading.engine.files.roots, lading.engine.files.committing
crashing(lading.storage.sealing, "rename_noreplace")
crashing(lading.storage.sealing, "sync_directory")
crashing(lading.engine.files.sealing, "seal")
crashing(lading.engine.files.committing, "keep_document")
crashing(lading.engine.files.sealing, "put_back")
crashing(lading.storage.sealing, "put_back")
crashing(lading.engine.files.roots, "mount_root")
crashing(lading.engine.files.roots, "take_away")

async def content(container, path):
    import io, tarfile
    async with container.get_archive(path) as archive:
        data = b"".join([chunk async for chunk in archive.chunks])
    return tarfile.open(fileobj=io.BytesIO(data))

def archive_of(name, text):
    import io, tarfile
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    async def chunks():
        yield out.getvalue()
    return chunks()
"""
)

LIFE = f"""
    made = await containers.create({IMAGE!r}, ["sh", "-c", "echo x >> /data; rm -f /etc/hello"], name="writer")
    await made.put_archive("/", archive_of("copied", b"by cp"))
    say("copied", "copied")
    await made.commit("first:1")
    say("named", "first:1")
    await made.start()
    await made.wait()
    say("wrote", 1)
    await made.commit("second:1")
    say("named", "second:1")
    await made.start()
    await made.wait()
    say("wrote", 2)
    for fork in await made.fork(2, names=["fork-1", "fork-2"]):
        say("forked", fork.name)
    async with engine.images.save("second:1") as stream:
        async for _ in stream:
            pass
    say("saved")
    await made.start()
    await made.wait()
    say("wrote", 3)
    await made.commit("third:1")
    say("named", "third:1")
    say("steps", steps)
"""


async def content(container: lading.Container, path: str) -> bytes:
    async with container.get_archive(path) as archive:
        data = b"".join([chunk async for chunk in archive.chunks])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(tar.getmembers()[0])
        assert file is not None
        return file.read()


async def check(where: Stage, said: list[list[str]]) -> None:
    """What was acknowledged is there, what is there is whole, and all of it can go on."""
    async with where.engine(timeout=60) as engine:
        log, paths = engine.core.log, where.paths
        for supervisor in list(engine.core.live.values()):
            await supervisor.done.wait()
        reached = reach(log)
        layers = {chain for chain, _ in log.scan(LAYERS)}
        assert layers == reached.layers
        assert {f"sha256:{path.name}" for path in paths.layers.iterdir()} == layers
        assert {f"sha256:{path.name}" for path in paths.blobs.iterdir()} == reached.blobs
        assert list(paths.staging.iterdir()) == []
        assert mounts_below(paths.run / "bundles") == []
        wrote = max((int(words[1]) for words in said if words[0] == "wrote"), default=0)
        if wrote:
            data = await content(engine.containers.get("writer"), "/data")
            assert wrote <= len(data) // 2 <= wrote + 1, (wrote, data)
        for words in said:
            match words[0]:
                case "copied":
                    assert await content(engine.containers.get("writer"), "/copied") == b"by cp"
                case "named":
                    assert await output_of(engine, words[1], "cat", "/copied") == b"by cp"
                case "forked":
                    fork = engine.containers.get(words[1])
                    assert await content(fork, "/data") == b"x\nx\n"
        for state in engine.images.list():
            for name in state.tags:
                async with engine.images.save(name) as stream:
                    async for _ in stream:
                        pass
        try:
            writer = engine.containers.get("writer")
        except NotFound:
            pass
        else:
            before = await engine.containers.run(IMAGE, ["true"])
            assert before.exit_code == 0
            await writer.start()
            await writer.wait()
            image = await writer.commit("again:1")
            assert len(await output_of(engine, image.image, "cat", "/data")) // 2 >= wrote + 1
        await empty(engine)
        await engine.log.verify()


@pytest.mark.parametrize("part", range(PARTS))
async def test_every_step_of_a_commit_and_a_fork_can_be_the_last(
    leakless: Census, busybox_tar: Path, part: int
) -> None:
    where = Stage(leakless.root, busybox_tar)
    before = children()
    await die_at_each_step(leakless, where, LIFE, partial(check, where), prelude=SEALING, part=part, least=80)
    agree(lambda: {pid: words for pid, words in children().items() if pid not in before}, {})
