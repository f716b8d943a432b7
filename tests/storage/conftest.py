"""Archives made by hand, every header byte under control, a place with victims to unpack beside, and a log."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from archives import Archive, Read, reader

from lading.storage.environment import open_log
from lading.storage.linux import MNT_DETACH, umount2
from lading.storage.log import Log
from lading.storage.trees import remove_tree
from lading.storage.unpack import Unpacked, unpack

END = bytes(1024)


def number(value: int, width: int) -> bytes:
    """Octal with a NUL, or base-256 where that does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0x80 if value >= 0 else 0xFF]) + (value % 256 ** (width - 1)).to_bytes(width - 1, "big")


def header(
    name: bytes,
    flag: bytes = b"0",
    size: int = 0,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_000_000_000,
    major: int = 0,
    minor: int = 0,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    raw: dict[int, bytes] | None = None,
    checksum: int | None = None,
) -> bytes:
    """One block; ``raw`` puts bytes at offsets before the checksum is taken."""
    block = bytearray(512)
    block[:100] = name[:100].ljust(100, b"\0")
    fields = ((100, mode, 8), (108, uid, 8), (116, gid, 8), (124, size, 12), (136, mtime, 12), (329, major, 8))
    for at, value, width in (*fields, (337, minor, 8)):
        block[at : at + width] = number(value, width)
    block[156:157] = flag
    block[157:257] = link[:100].ljust(100, b"\0")
    block[257:265] = magic
    block[345:500] = prefix.ljust(155, b"\0")
    for at, value_bytes in (raw or {}).items():
        block[at : at + len(value_bytes)] = value_bytes
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def records(*pairs: tuple[bytes, bytes]) -> bytes:
    """pax records with right lengths."""
    out = b""
    for key, value in pairs:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + len(str(len(body)))
        while len(str(length)) + len(body) != length:
            length += 1
        out += b"%d" % length + body
    return out


def x(*pairs: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    """An extended header."""
    return raw_x(records(*pairs), flag)


def raw_x(data: bytes, flag: bytes = b"x") -> bytes:
    return header(b"PaxHeaders/x", flag, len(data)) + pad(data)


def g(*pairs: tuple[bytes, bytes]) -> bytes:
    return x(*pairs, flag=b"g")


def f(name: bytes, data: bytes = b"", **kw: Any) -> bytes:
    kw.setdefault("size", len(data))
    return header(name, kw.pop("flag", b"0"), **kw) + pad(data)


def s(name: bytes, text: bytes, **kw: Any) -> bytes:
    return header(name, b"2", link=text, mode=0o777, **kw)


def lnk(name: bytes, target: bytes, **kw: Any) -> bytes:
    return header(name, b"1", link=target, **kw)


def d(name: bytes, mode: int = 0o755, **kw: Any) -> bytes:
    return header(name, b"5", mode=mode, **kw)


def long(name: bytes, flag: bytes = b"L") -> bytes:
    """A GNU long name (L) or long link name (K)."""
    return header(b"././@LongLink", flag, len(name) + 1, magic=b"ustar  \0") + pad(name + b"\0")


class Chopped(io.RawIOBase):
    """Gives at most ``step`` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def read(self, n: int = -1, /) -> bytes:
        return self._data.read(min(self._step, n) if n >= 0 else self._step)


Shot = dict[bytes, tuple[Any, ...]]


def snapshot(root: Path, *, times: bool = True) -> Shot:
    """Everything that can be seen of a tree: type and mode, owner, links, size, mtime, content, xattrs."""
    found: Shot = {}
    base = os.fsencode(root)
    todo = [base]
    while todo:
        path = todo.pop()
        st = os.lstat(path)
        content: Any = None
        xattrs: tuple[Any, ...] = ()
        if stat.S_ISDIR(st.st_mode):
            todo += [path + b"/" + name for name in os.listdir(path)]
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(st.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        if stat.S_ISDIR(st.st_mode) or stat.S_ISREG(st.st_mode):
            xattrs = tuple((k, os.getxattr(path, k)) for k in sorted(os.listxattr(path)))
        size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
        links = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink
        mtime = st.st_mtime_ns if times else 0
        key = os.path.relpath(path, base)
        found[key] = (st.st_mode, st.st_uid, st.st_gid, links, size, st.st_rdev, mtime, content, xattrs)
    return found


@attrs.define
class Place:
    """``root`` to unpack into, and ``victim`` beside it, in which nothing may ever change."""

    base: Path
    root: Path
    victim: Path
    before: Shot

    def unpack(self, *pieces: bytes, end: bytes = END, **kw: Any) -> Unpacked:
        return unpack(io.BytesIO(b"".join(pieces) + end), self.root, **kw)

    def check(self) -> None:
        """The victims are what they were, and nothing appeared beside them."""
        assert sorted(os.listdir(self.base)) == ["layer", "victim"]
        assert snapshot(self.victim) == self.before

    def refresh(self) -> None:
        """An empty root again."""
        fd = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            remove_tree(fd, b"layer")
        finally:
            os.close(fd)
        self.root.mkdir(0o755)

    def at(self, name: str) -> Path:
        return self.root / name


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    base = tmp_path / "outer"
    base.mkdir()
    victim = base / "victim"
    victim.mkdir(0o700)
    (victim / "file").write_bytes(b"precious")
    (victim / "file").chmod(0o640)
    os.utime(victim / "file", ns=(10**18, 10**18))
    (victim / "sub").mkdir(0o711)
    (victim / "link").symlink_to("file")
    (victim / "fifo").touch()
    os.link(victim / "file", victim / "second")
    os.utime(victim, ns=(10**18, 10**18))
    root = base / "layer"
    root.mkdir(0o755)
    made = Place(base, root, victim, snapshot(victim))
    yield made
    made.check()
    made.refresh()


@pytest.fixture
def tar() -> Any:
    """The builders, by name: ``tar.f(...)``; test modules can't import one another."""
    return Builders()


class Builders:
    END = END
    number = staticmethod(number)
    header = staticmethod(header)
    pad = staticmethod(pad)
    records = staticmethod(records)
    x = staticmethod(x)
    raw_x = staticmethod(raw_x)
    g = staticmethod(g)
    f = staticmethod(f)
    s = staticmethod(s)
    lnk = staticmethod(lnk)
    d = staticmethod(d)
    long = staticmethod(long)
    Chopped = Chopped
    snapshot = staticmethod(snapshot)


@pytest.fixture
def archive(tar: Any) -> Archive:
    return Archive(tar)


@pytest.fixture
def base(tar: Any) -> bytes:
    return bytes(tar.d(b"bin/") + tar.f(b"bin/sh", b"#!" * 400) + tar.lnk(b"bin/bash", b"bin/sh") + tar.END)


@pytest.fixture
def top(tar: Any) -> bytes:
    return bytes(tar.f(b"etc/motd", b"hello") + tar.f(b"etc/motd", b"again") + tar.f(b"bin/.wh.sh") + tar.END)


@pytest.fixture
def read(place: Any) -> Read:
    return reader(place.root)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts small file systems, to be full on demand."""
    from lading.storage.linux import mount

    made: list[Path] = []

    def make(options: str) -> Path:
        where = tmp_path / f"tmpfs{len(made)}"
        where.mkdir()
        mount(b"tmpfs", os.fsencode(where), b"tmpfs", 0, options.encode())
        made.append(where)
        return where

    yield make
    for where in made:
        umount2(os.fsencode(where), MNT_DETACH)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    """An empty log."""
    opened = open_log(path, "id")
    yield opened
    opened.close()
