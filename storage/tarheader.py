"""Tar headers, written: ustar, with a pax header before it only where ustar can't say it.

As Go's ``archive/tar`` does in its pax format: a name or link name is a pax record as soon as it is longer than
100 bytes or not ASCII, as the bytes that it is (POSIX wants UTF-8, and what is not would be a lie in it either
way); so is a size, an id or a time that octal digits have no room for, and a time with a fraction. Owners are
numbers alone. The same arguments give the same bytes. Source: POSIX.1-2008, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

__all__ = ["END", "header", "padding"]

END: Final = bytes(1024)
"""What an archive ends with."""

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_MAGIC: Final = b"ustar\x0000"
_MAX7: Final = 8**7 - 1
_MAX11: Final = 8**11 - 1
_SECOND: Final = 1_000_000_000


def header(
    name: bytes,
    flag: bytes,
    *,
    linkname: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    devmajor: int = 0,
    devminor: int = 0,
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """The header blocks of one entry of type ``flag`` (one byte, ``0`` a file). No argument is checked."""
    records: dict[bytes, bytes] = {}
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    if len(linkname) > 100 or not linkname.isascii():
        records[b"linkpath"] = linkname
    if uid > _MAX7:
        records[b"uid"] = b"%d" % uid
        uid = 0
    if gid > _MAX7:
        records[b"gid"] = b"%d" % gid
        gid = 0
    if size > _MAX11:
        records[b"size"] = b"%d" % size
        size = 0
    seconds, fraction = divmod(mtime_ns, _SECOND)
    if fraction or not 0 <= seconds <= _MAX11:
        records[b"mtime"] = _decimal_time(mtime_ns)
        seconds = min(max(seconds, 0), _MAX11)
    for key, value in (xattrs or {}).items():
        records[b"SCHILY.xattr." + key] = value
    block = _block(name, flag, linkname, mode, uid, gid, size, seconds, devmajor, devminor)
    if not records:
        return block
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    base = name.rstrip(b"/").rpartition(b"/")[2]
    about = b"PaxHeaders.0/" + bytes(byte for byte in base if 32 < byte < 127)[:80]
    return _block(about, b"x", b"", 0o644, 0, 0, len(data), 0, 0, 0) + data + padding(len(data)) + block


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of data up to the next block."""
    return bytes(-size % 512)


def _block(
    name: bytes,
    flag: bytes,
    link: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    major: int,
    minor: int,
) -> bytes:
    block = _FIELDS.pack(
        name,
        b"%07o" % mode,
        b"%07o" % uid,
        b"%07o" % gid,
        b"%011o" % size,
        b"%011o" % seconds,
        b"        ",
        flag,
        link,
        _MAGIC,
        b"",
        b"",
        b"%07o" % major,
        b"%07o" % minor,
        b"",
        b"",
    )
    # The low half of Adler-32 is 1 + the sum of the bytes modulo 65521, which 256 bytes can't reach.
    total = (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2
    return b"%b%06o\0 %b" % (block[:148], total, block[156:])


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value newline``, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _decimal_time(time_ns: int) -> bytes:
    sign = b"-" if time_ns < 0 else b""
    seconds, fraction = divmod(abs(time_ns), _SECOND)
    return (
        (b"%b%d.%09d" % (sign, seconds, fraction)).rstrip(b"0").rstrip(b".")
        if fraction
        else b"%b%d"
        % (
            sign,
            seconds,
        )
    )
