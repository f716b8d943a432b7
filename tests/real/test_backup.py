"""A real store, backed up while its engine works, is a store elsewhere: its history, its files, its containers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import trio
from mounted import mounting, volume
from pasts import make_store, with_bodies
from stage import IMAGE, Census, Stage, agree, output

from lading.events.container import Phase
from lading.events.errors import BackupInvalid, LadingError
from lading.events.views import CONTAINERS
from lading.storage.backup import read_manifest
from lading.storage.procfs import is_alive, processes_naming
from lading.storage.restoring import restore_backup
from lading.storage.store import read_log

pytestmark = [pytest.mark.real, pytest.mark.slow]

PROGRAM = [sys.executable, "-P", "-m", "lading.engine.cli.main"]


async def lading(root: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """The command line on the store at ``root``; another process, as LMDB wants it."""
    done = await trio.run_process(
        [*PROGRAM, "--root", os.fspath(root), *words], capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture
def second(tmp_path: Path, busybox_tar: Path, leakless: Census) -> Iterator[Stage]:
    """Where the copy is made a store; nothing of it is left on the host, either."""
    census = Census(tmp_path / "second")
    try:
        yield Stage(tmp_path / "second", busybox_tar)
        census.check()
    finally:
        census.clean()


@pytest.mark.long
async def test_a_restored_store_has_the_files_and_starts_its_containers(
    stage: Stage, second: Stage, tmp_path: Path
) -> None:
    """What a container wrote, deleted, owned and linked, and what it printed, is there; it starts and goes on."""
    made = (
        "echo first; echo kept > /root/file; rm /etc/passwd; mkdir -p /d/e; mkfifo /d/p; ln -s /x /d/s; chown 7 /d"
    )
    seen = "cat /root/file; ls /etc; ls -ln /d; echo again >> /root/file"
    async with stage.emptied() as engine:
        container = await engine.containers.create(
            IMAGE,
            ["sh", "-c", f"if [ -e /d ]; then {seen}; cat /v/f; else {made}; echo in a volume > /v/f; fi"],
            settings=mounting(volume("box", "/v")),
        )
        await container.start()
        await container.wait()
        done = await lading(stage.root, "backup", os.fspath(tmp_path / "backup"))
        assert b"with 1 layer" in done.stdout
        assert done.stderr == b""
        head = engine.core.log.head()
    await lading(second.root, "restore", os.fspath(tmp_path / "backup"))
    log = read_log(second.root)
    assert log.verify().records == head
    log.close()
    async with second.emptied() as engine:
        again = engine.containers.get(container.id)
        assert await output(again) == b"first\n"
        await again.start()
        await again.wait()
        said = (await output(again)).decode().splitlines()
        assert said[:2] == ["first", "kept"]
        assert "passwd" not in said
        assert said[-1] == "in a volume"
        assert any(line.startswith("p") for line in said)
        assert any(line.endswith("s -> /x") for line in said)
        done_there = await engine.containers.run(IMAGE, ["echo", "new"])
        assert done_there.stdout == b"new\n"


@pytest.mark.long
async def test_a_hot_backup_is_of_one_instant(stage: Stage, second: Stage, tmp_path: Path) -> None:
    """While an engine creates, runs and removes as fast as it can, each backup is a whole store that opens."""
    async with stage.emptied(timeout=120) as engine:
        stop = False

        async def churn(number: int) -> None:
            while not stop:
                one = await engine.containers.create(IMAGE, ["sh", "-c", "echo x > /root/f; echo done"])
                await one.start()
                await one.wait()
                if number % 2:
                    await one.remove()

        before = engine.core.log.head()
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(churn, number)
            await trio.sleep(0.5)
            for number in range(3):
                await lading(stage.root, "backup", os.fspath(tmp_path / f"backup{number}"))
            stop = True
        after = engine.core.log.head()
    positions = [read_manifest(tmp_path / f"backup{number}").position for number in range(3)]
    assert before < positions[0] < positions[1] < positions[2] < after, "it went on all the time"
    await lading(second.root, "restore", os.fspath(tmp_path / "backup1"))
    log = read_log(second.root)
    assert log.verify().records == positions[1]
    named = [state for _, state in log.scan(CONTAINERS)]
    log.close()
    assert named
    missing = read_manifest(tmp_path / "backup1").missing
    async with second.emptied(timeout=120) as engine:
        for state in engine.containers.list():
            if state.phase is Phase.REMOVING:  # its removal was under way then, and goes on now
                await engine.core.wait_removed(state.id)
        for state in engine.containers.list():
            assert state.phase not in (Phase.RUNNING, Phase.STARTING, Phase.REMOVING)
        ended = [state for state in engine.containers.list() if state.run and state.id not in missing]
        assert ended
        for state in ended[:5]:
            await engine.containers.get(state.id).start()
            await engine.containers.get(state.id).wait()


@pytest.mark.long
async def test_a_copy_leaves_the_containers_of_the_original_alone(
    stage: Stage, second: Stage, tmp_path: Path
) -> None:
    """The copied log names a process that runs: it is another store's, and goes on when the copy is opened."""
    async with stage.emptied() as engine:
        container = await engine.containers.create(IMAGE, ["sleep", "1000"], name="goes-on")
        await container.start()
        process = engine.core.log.get(CONTAINERS, container.id).process  # type: ignore[union-attr]
        assert process is not None
        done = await lading(stage.root, "backup", os.fspath(tmp_path / "backup"))
        assert b"was running: its files are as after a power cut" in done.stderr
        assert read_manifest(tmp_path / "backup").running == [container.id]
        await lading(second.root, "restore", os.fspath(tmp_path / "backup"))
        async with second.emptied() as copy:
            [state] = copy.containers.list()
            assert (state.name, state.phase, state.exit_code) == ("goes-on", Phase.STOPPED, None)
            assert is_alive(process)
            await copy.containers.get(state.id).start()
            await copy.containers.get(state.id).stop(timeout=0)
            assert is_alive(process)
        assert is_alive(process)
        assert engine.core.log.get(CONTAINERS, container.id).phase is Phase.RUNNING  # type: ignore[union-attr]


@pytest.mark.long
async def test_the_restored_log_continues_the_chain(stage: Stage, second: Stage, tmp_path: Path) -> None:
    """A backup of the log only, and a backup of all: the same history; the files are only in one of them."""
    async with stage.emptied() as engine:
        await engine.containers.create(IMAGE, ["true"], name="never-ran")
        await lading(stage.root, "backup", os.fspath(tmp_path / "all"))
        await lading(stage.root, "backup", "--log-only", os.fspath(tmp_path / "log"))
    whole, only = read_manifest(tmp_path / "all"), read_manifest(tmp_path / "log")
    assert (whole.position, whole.chain, whole.missing) == (only.position, only.chain, [])
    assert sorted(os.listdir(tmp_path / "log")) == ["backup.json", "log"]
    assert sorted(os.listdir(tmp_path / "all")) == [
        "backup.json",
        "blobs",
        "containers",
        "layers",
        "log",
        "splits",
    ]
    await lading(second.root, "restore", os.fspath(tmp_path / "all"))
    done = await lading(second.root, "ps", "-a", "--format", "json")
    assert json.loads(done.stdout)["Names"] == "never-ran"
    done = await lading(second.root, "run", "--rm", IMAGE, "echo", "hello")
    assert done.stdout == b"hello\n"
    engines = [pid for pid in processes_naming(os.fspath(second.root)) if b"\0serve\0" in words(pid)]
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGTERM)
    await trio.to_thread.run_sync(agree, lambda: processes_naming(os.fspath(second.root)), [])


async def test_a_layer_that_is_not_whole_is_refused(stage: Stage, tmp_path: Path) -> None:
    async with stage.engine():
        await lading(stage.root, "backup", os.fspath(tmp_path / "backup"))
    [layer] = (tmp_path / "backup" / "layers").iterdir()
    (layer / "etc" / "passwd").unlink()
    with pytest.raises(BackupInvalid, match=r"layers/[0-9a-f]+ has \d+ files and had \d+"):
        restore_backup(tmp_path / "backup", tmp_path / "second")
    assert not (tmp_path / "second").exists()


async def test_a_foreign_history_starts_nothing_outside_a_containers_root(
    stage: Stage, second: Stage, tmp_path: Path
) -> None:
    """What creating refuses, starting refuses: a working directory by which one would leave (CVE-2024-21626)."""
    async with stage.emptied() as engine:
        container = await engine.containers.create(IMAGE, ["pwd"], working_dir="/tmp")
        await lading(stage.root, "backup", os.fspath(tmp_path / "backup"))
        past = engine.core.log.read_raw()
        identity = engine.store.identity
    bodies = [msgpack.unpackb(stored[:-32]) for _, stored in past]
    [created] = [body for body in bodies if body[9] == "container.created"]
    assert created[11][2][7] == "/tmp"
    created[11][2][7] = "/proc/self/fd/9"
    make_store(second.root, with_bodies(bodies), identity)
    shutil.copytree(tmp_path / "backup" / "layers", second.root / "layers", symlinks=True, dirs_exist_ok=True)
    async with second.emptied() as engine:
        with pytest.raises(LadingError, match="it may not be in /proc"):
            await engine.containers.get(container.id).start()
