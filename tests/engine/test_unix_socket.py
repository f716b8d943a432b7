"""Sockets with a path: the mode from the first instant, what may be replaced, and paths of any length."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lading.engine.http.unix_socket import connect_unix, listen_unix, peer_of
from lading.events.errors import HostError, InUse, Invalid


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def long_path(tmp_path: Path) -> Path:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    return directory / "engine.sock"


async def test_the_two_ends_meet_and_the_listener_knows_who_came(tmp_path: Path) -> None:
    async with (
        listen_unix(tmp_path / "s") as listener,
        await connect_unix(tmp_path / "s") as near,
        await listener.accept() as far,
    ):
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        peer = peer_of(far)
    assert (peer.uid, peer.gid, peer.pid) == (os.getuid(), os.getgid(), os.getpid())


@pytest.mark.parametrize("mode", [0o600, 0o660])
async def test_the_mode_is_there_before_anybody_can_connect(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    seen: list[tuple[int, bool]] = []
    real_listen = socket.socket.listen

    def spied_listen(sock: socket.socket, backlog: int) -> None:
        [made] = tmp_path.iterdir()
        seen.append((mode_of(made), path.exists()))
        real_listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", spied_listen)
    before = os.umask(0)
    try:
        async with listen_unix(path, mode, gid=os.getgid()):
            assert seen == [(mode, False)]
            assert mode_of(path) == mode
            assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    finally:
        os.umask(before)


async def test_closing_removes_the_path_and_twice_is_fine(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "s")
    await listener.aclose()
    await listener.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_closing_leaves_a_successor_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = listen_unix(path)
    path.unlink()
    async with listen_unix(path), await connect_unix(path):
        await old.aclose()
        assert path.is_socket()


async def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    dead_socket(tmp_path / "s")
    async with listen_unix(tmp_path / "s"), await connect_unix(tmp_path / "s"):
        pass


async def test_a_live_socket_is_in_use_and_goes_on_working(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listen_unix(path):
        with pytest.raises(InUse, match=f"process {os.getpid()}"):
            listen_unix(path)
        async with await connect_unix(path):
            pass
        assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


async def test_a_live_socket_with_a_full_queue_is_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        client.connect(str(tmp_path / "s"))
        with pytest.raises(InUse, match="not accepting"):
            listen_unix(tmp_path / "s")


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_a_symlink_is_refused_and_not_followed(tmp_path: Path, target: str) -> None:
    dead_socket(tmp_path / "elsewhere")
    (tmp_path / "s").symlink_to(tmp_path / target)
    with pytest.raises(Invalid, match="symbolic link"):
        listen_unix(tmp_path / "s")
    assert (tmp_path / "s").is_symlink()
    assert not (tmp_path / "missing").exists()


def test_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(Invalid, match="not a socket"):
        listen_unix(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


@pytest.mark.parametrize("path", ["", "/", "a/..", "\0abstract"])
def test_what_is_not_a_path_to_a_file_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        listen_unix(path)


def test_a_directory_where_anybody_could_replace_the_socket_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Invalid, match="anybody"):
        listen_unix(tmp_path / "s")
    tmp_path.chmod(0o1777)
    trio.run(listen_unix(tmp_path / "s").aclose)


def test_a_missing_directory_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        listen_unix(tmp_path / "no" / "s")
    assert caught.value.errno == errno.ENOENT


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "rename", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match="read-only"):
        listen_unix(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_path_longer_than_an_address_works_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = long_path(tmp_path)
    assert len(bytes(path)) > 107
    async with listen_unix(path):
        async with await connect_unix(path):
            assert mode_of(path) == 0o600
        with pytest.raises(InUse):
            listen_unix(path)
    monkeypatch.chdir(path.parent)
    dead_socket(Path("engine.sock"))
    monkeypatch.chdir("/")
    async with listen_unix(path), await connect_unix(path):
        pass


async def test_nobody_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="start the engine") as caught:
        await connect_unix(tmp_path / "s")
    assert caught.value.errno == errno.ENOENT
    dead_socket(tmp_path / "s")
    with pytest.raises(HostError, match="start the engine again") as caught:
        await connect_unix(tmp_path / "s")
    assert caught.value.errno == errno.ECONNREFUSED
    with pytest.raises(HostError):
        await connect_unix(long_path(tmp_path))


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        client.connect(str(tmp_path / "s"))

        async def make_room() -> None:
            await wait_all_tasks_blocked(0.02)
            server.accept()[0].close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            async with await connect_unix(tmp_path / "s") as stream:
                assert peer_of(stream).pid == os.getpid()
