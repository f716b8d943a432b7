"""What a process that handles untrusted bytes gives up, for good, before it sees the first of them.

Sources: unshare(2), prctl(2), capabilities(7), landlock(7). The kernel keeps all of this by thread, so a process
is to be confined while it has one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

__all__ = ["confine", "landlock_version", "write_only_beneath"]

_CLONE_NEWNET: Final = 0x40000000
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
# CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SYS_ADMIN (trusted.* attributes), MKNOD, SETFCAP
_FILE_CAPABILITIES: Final = sum(1 << bit for bit in (0, 1, 2, 3, 4, 21, 27, 31))

_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_ADD_RULE: Final = 445
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_RULESET_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_EXECUTE: Final = 1 << 0
# write to files, remove directories and files, make everything from devices (bit 6) to symlinks (bit 12)
_CHANGE: Final = 1 << 1 | sum(1 << bit for bit in range(4, 13))
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_DEVICE_CONTROL: Final = 1 << 15
_SCOPES: Final = 1 << 0 | 1 << 1  # abstract sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def confine() -> None:
    """Give up the network, the way to more privileges by execve(2), and every capability that making files of any
    kind and owner doesn't need. Raises ``OSError``."""
    _checked(_libc.unshare(ctypes.c_int(_CLONE_NEWNET)), "unshare the network")
    _checked(_libc.prctl(ctypes.c_int(_PR_SET_NO_NEW_PRIVS), *map(ctypes.c_ulong, (1, 0, 0, 0))), "no_new_privs")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(header, sets), "capget")
    for at, kept in enumerate((_FILE_CAPABILITIES & 0xFFFFFFFF, _FILE_CAPABILITIES >> 32)):
        for kind in range(3):  # effective, permitted, inheritable
            sets[3 * at + kind] &= kept if kind < 2 else 0
    _checked(_libc.capset(header, sets), "capset")


def write_only_beneath(directory: bytes | int) -> bool:
    """Give up making, writing, removing and renaming anything that is not beneath ``directory`` (a path, or a
    descriptor), and executing anything at all; where the kernel knows how, signalling other processes, too. Call
    it after :func:`confine`.

    False where the kernel has no Landlock, or one (before Linux 5.19) with which nothing could be renamed from one
    directory to another; nothing is given up then. Owners, modes, times and attributes are not Landlock's concern.
    Raises ``OSError``.
    """
    version = landlock_version()
    if version < 2:
        return False
    allowed = _CHANGE | _REFER | (_TRUNCATE if version >= 3 else 0)
    handled = allowed | _EXECUTE | (_DEVICE_CONTROL if version >= 5 else 0)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES) if version >= 6 else struct.pack("=Q", handled)
    rules = _checked(
        _libc.syscall(
            ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET),
            ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
            ctypes.c_uint32(0),
        ),
        "make Landlock rules",
    )
    try:
        where, at = (b".", directory) if isinstance(directory, int) else (directory, None)
        place = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
        try:
            rule = ctypes.c_char_p(struct.pack("=Qi", allowed, place))
            _checked(
                _libc.syscall(
                    ctypes.c_long(_SYS_LANDLOCK_ADD_RULE),
                    ctypes.c_int(rules),
                    ctypes.c_int(_PATH_BENEATH),
                    rule,
                    ctypes.c_uint32(0),
                ),
                "add a Landlock rule",
            )
        finally:
            os.close(place)
        _checked(
            _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_RESTRICT_SELF), ctypes.c_int(rules), ctypes.c_uint32(0)),
            "enforce Landlock rules",
        )
    finally:
        os.close(rules)
    return True


def landlock_version() -> int:
    """Which Landlock the kernel has; 0 for none."""
    version: int = _libc.syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_RULESET_VERSION)
    )
    if version < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP):
        return 0
    return _checked(version, "ask for Landlock")


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
