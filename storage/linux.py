"""Linux calls that Python 3.11 has no name for: openat2, syncfs, renameat2 and the two mount interfaces.

Each function is the system call of the same name and nothing more: it raises :class:`OSError` with ``errno``
and, where there is a path, ``filename``; it retries EINTR, and every descriptor that it returns is
close-on-exec. Paths are bytes, so a name that is not UTF-8 survives.

Sources: openat2(2), syncfs(2), rename(2), mount(2), umount2(2) and, for the new mount interface,
``include/uapi/linux/mount.h``. Numbers from 424 on are the same on every architecture; openat2 needs
Linux 5.6, the new mount interface 5.2.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

__all__ = [
    "AT_FDCWD",
    "FSMOUNT_CLOEXEC",
    "MNT_DETACH",
    "MNT_EXPIRE",
    "MNT_FORCE",
    "MOUNT_ATTR_NODEV",
    "MOUNT_ATTR_NOEXEC",
    "MOUNT_ATTR_NOSUID",
    "MOUNT_ATTR_RDONLY",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_SLAVE",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "UMOUNT_NOFOLLOW",
    "filesystem_type",
    "fsconfig_create",
    "fsconfig_set_flag",
    "fsconfig_set_string",
    "fsmount",
    "fsopen",
    "mount",
    "mount_readonly",
    "move_mount",
    "move_mount_onto",
    "open_tree",
    "openat2",
    "rename_exchange",
    "rename_noreplace",
    "sync_directory",
    "syncfs",
    "umount2",
]

AT_FDCWD: Final = -100

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19

MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MNT_EXPIRE: Final = 4
UMOUNT_NOFOLLOW: Final = 8

FSMOUNT_CLOEXEC: Final = 1
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_OPEN_TREE_CLONE = 0x1
_AT_EMPTY_PATH = 0x1000
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_RENAMEAT2 = 316 if os.uname().machine == "x86_64" else 276  # 276 is the generic table's (aarch64, riscv64)

# openat2 answers EAGAIN when a rename anywhere on the machine raced a ".." inside the root.
_OPENAT2_ATTEMPTS = 256

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_OPEN_HOW_SIZE = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def _syscall(number: int, path: bytes | None, *arguments: object) -> int:
    """The raw call, with EINTR retried; ``path`` only names the culprit in the error."""
    while True:
        result: int = _libc.syscall(ctypes.c_long(number), *arguments)
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def _path(path: bytes) -> ctypes.c_char_p:
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a path with a NUL byte", path)
    return ctypes.c_char_p(path)


def openat2(path: bytes, flags: int, mode: int = 0, resolve: int = 0, dir_fd: int = AT_FDCWD) -> int:
    """Open ``path`` beneath ``dir_fd`` under the RESOLVE_* rules of openat2(2); O_CLOEXEC is added.

    With RESOLVE_IN_ROOT absolute symlinks and ``..`` stop at ``dir_fd``, as under chroot. ``mode`` must be 0
    without O_CREAT. Raises ELOOP, EXDEV, ENOENT, ... and ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = _path(path)
    for attempt in range(1, _OPENAT2_ATTEMPTS + 1):
        try:
            return _syscall(_SYS_OPENAT2, path, ctypes.c_long(dir_fd), name, ctypes.byref(how), _OPEN_HOW_SIZE)
        except BlockingIOError:
            if attempt == _OPENAT2_ATTEMPTS:
                raise
    raise AssertionError


def syncfs(fd: int) -> None:
    """Write the whole file system that ``fd`` is on to disk; raises what its writeback met since the last
    call on this descriptor's file description (Linux 5.8), such as EIO or ENOSPC."""
    while _libc.syncfs(ctypes.c_int(fd)) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that ``fd`` is on (fstatfs(2), linux/magic.h)."""
    buffer = (ctypes.c_long * 64)()
    if _libc.fstatfs(ctypes.c_int(fd), ctypes.byref(buffer)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(buffer[0])


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Have the names in ``directory`` on disk (fsync(2)). Raises ``OSError``."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _renameat2(source: bytes, target: bytes, source_fd: int, target_fd: int, flags: int) -> None:
    _syscall(
        _SYS_RENAMEAT2,
        target,
        ctypes.c_long(source_fd),
        _path(source),
        ctypes.c_long(target_fd),
        _path(target),
        ctypes.c_long(flags),
    )


def rename_exchange(source: bytes, target: bytes, *, source_fd: int = AT_FDCWD, target_fd: int = AT_FDCWD) -> None:
    """Swap two names in one step; both must exist."""
    _renameat2(source, target, source_fd, target_fd, RENAME_EXCHANGE)


def rename_noreplace(
    source: bytes, target: bytes, *, source_fd: int = AT_FDCWD, target_fd: int = AT_FDCWD
) -> None:
    """Rename, or raise EEXIST when ``target`` exists; nothing is ever replaced."""
    _renameat2(source, target, source_fd, target_fd, RENAME_NOREPLACE)


def mount(source: bytes, target: bytes, fstype: bytes, flags: int = 0, data: bytes = b"") -> None:
    """mount(2). ``data`` must fit in a page with its NUL; use :func:`fsopen` for options that do not."""
    _checked_mount_call(
        target,
        _libc.mount,
        _path(source),
        _path(target),
        _path(fstype),
        ctypes.c_ulong(flags),
        _path(data) if data else None,
    )


def umount2(target: bytes, flags: int = 0) -> None:
    """umount2(2); MNT_DETACH hides the mount now and frees it when its last user goes."""
    _checked_mount_call(target, _libc.umount2, _path(target), ctypes.c_int(flags))


def _checked_mount_call(target: bytes, function: ctypes._NamedFuncPointer, *arguments: object) -> None:
    while function(*arguments) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), target)


def fsopen(fstype: bytes) -> int:
    """A descriptor for configuring a new instance of file system ``fstype``; the caller closes it.

    When a later fsconfig call fails, reading from the descriptor gives the kernel's own explanation.
    """
    return _syscall(_SYS_FSOPEN, fstype, _path(fstype), ctypes.c_long(_FSOPEN_CLOEXEC))


def _fsconfig(fd: int, command: int, key: bytes | None, value: bytes | None) -> None:
    _syscall(
        _SYS_FSCONFIG,
        key,
        ctypes.c_long(fd),
        ctypes.c_long(command),
        None if key is None else _path(key),
        None if value is None else _path(value),
        ctypes.c_long(0),
    )


def fsconfig_set_string(fd: int, key: bytes, value: bytes) -> None:
    """Set option ``key`` to ``value`` (at most 255 bytes; for overlayfs repeat ``lowerdir+``, Linux 6.5)."""
    _fsconfig(fd, _FSCONFIG_SET_STRING, key, value)


def fsconfig_set_flag(fd: int, key: bytes) -> None:
    """Set the option ``key``, which takes no value."""
    _fsconfig(fd, _FSCONFIG_SET_FLAG, key, None)


def fsconfig_create(fd: int) -> None:
    """Make the file system from what was configured on ``fd``."""
    _fsconfig(fd, _FSCONFIG_CMD_CREATE, None, None)


def fsmount(fd: int, attributes: int = 0) -> int:
    """A descriptor for a detached mount of ``fd`` with MOUNT_ATTR_* ``attributes``; closing it unmounts."""
    return _syscall(
        _SYS_FSMOUNT, None, ctypes.c_long(fd), ctypes.c_long(FSMOUNT_CLOEXEC), ctypes.c_long(attributes)
    )


def open_tree(fd: int) -> int:
    """A descriptor for a detached bind mount of the directory or file ``fd`` (O_PATH will do), without what is
    mounted below it; closing it unmounts, unless :func:`move_mount` attached it. Linux 5.2."""
    return _syscall(
        _SYS_OPEN_TREE,
        None,
        ctypes.c_long(fd),
        ctypes.c_char_p(b""),
        ctypes.c_long(_OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC),
    )


def move_mount(mount_fd: int, target: bytes, *, target_fd: int = AT_FDCWD) -> None:
    """Attach the mount of :func:`fsmount` or :func:`open_tree` at ``target`` (its last symlink not followed)."""
    _syscall(
        _SYS_MOVE_MOUNT,
        target,
        ctypes.c_long(mount_fd),
        ctypes.c_char_p(b""),
        ctypes.c_long(target_fd),
        _path(target),
        ctypes.c_long(_MOVE_MOUNT_F_EMPTY_PATH),
    )


def move_mount_onto(mount_fd: int, target_fd: int) -> None:
    """Attach the mount of :func:`open_tree` at the open directory or file ``target_fd`` itself: no path is
    walked."""
    _syscall(
        _SYS_MOVE_MOUNT,
        None,
        ctypes.c_long(mount_fd),
        ctypes.c_char_p(b""),
        ctypes.c_long(target_fd),
        ctypes.c_char_p(b""),
        ctypes.c_long(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH),
    )


def mount_readonly(mount_fd: int) -> None:
    """Make the mount of :func:`open_tree` read-only (mount_setattr(2), Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    _syscall(
        _SYS_MOUNT_SETATTR,
        None,
        ctypes.c_long(mount_fd),
        ctypes.c_char_p(b""),
        ctypes.c_long(_AT_EMPTY_PATH),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
