"""Overlay mounts: many read-only layers, one writable one, nothing copied (kernel filesystems/overlayfs.rst)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from lading.events.errors import HostError
from lading.storage import linux

__all__ = ["mount_overlay", "mount_view", "mounts_below", "unmount"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_Path = str | os.PathLike[str]
_Writable = tuple[bytes, bytes]
"""The upper and the work directory."""
_VALUE = 255
"""The longest value of one fsconfig option (fs/fsopen.c)."""


def mount_overlay(
    target: _Path, lower: Sequence[_Path], upper: _Path, work: _Path, *, volatile: bool = False
) -> None:
    """Mount ``lower`` (the top one first) under ``upper`` at ``target``; all of them exist.

    The new mount interface takes layers one at a time, so any number of them fits (Linux 6.8); older kernels
    get one option string, with the layers as descriptors when their paths fill more than a page. Raises
    ``HostError``. A crash leaves at most the mount, which recovery finds.

    A ``volatile`` mount syncs nothing, neither when its users ask for it nor when it is unmounted; after the
    machine crashed, the kernel refuses to mount the same writable layer again.
    """
    _mount(target, lower, (os.fsencode(upper), os.fsencode(work)), volatile)


def mount_view(target: _Path, lower: Sequence[_Path]) -> None:
    """Mount ``lower`` (the top one first; two at least) at ``target`` to be read only; otherwise as above."""
    _mount(target, lower, None, volatile=False)


def _mount(target: _Path, lower: Sequence[_Path], writable: _Writable | None, volatile: bool) -> None:
    try:
        layers = [os.fsencode(path) for path in lower]
        if not _mount_each(os.fsencode(target), layers, writable, volatile):
            _mount_at_once(os.fsencode(target), layers, writable, volatile)
    except OSError as error:
        hint = {
            errno.ENODEV: "the kernel has no overlay file system: load the module 'overlay'",
            errno.EPERM: "mounting needs root with CAP_SYS_ADMIN",
            errno.EINVAL: "the file system below may not carry an overlay (an overlay itself, or no xattrs)",
        }.get(error.errno or 0, "")
        raise HostError("mount the overlay at", os.fspath(target), error.errno or 0, hint) from error


def unmount(target: _Path) -> bool:
    """Unmount what is at ``target``, even if somebody looks at it; False if nothing was mounted there."""
    try:
        linux.umount2(os.fsencode(target), linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise HostError("unmount", os.fspath(target), error.errno or 0) from error
    return True


def mounts_below(directory: Path) -> list[Path]:
    """The mount points below ``directory``, the deepest first (proc_pid_mountinfo(5))."""
    prefix = os.fsencode(directory) + b"/"
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            point = line.split(b" ")[4]
            for octal, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
                point = point.replace(octal, char)
            if point.startswith(prefix):
                found.append(Path(os.fsdecode(point)))
    return sorted(found, reverse=True)


_one_by_one = True
"""Whether the kernel knows ``lowerdir+``; learned from the first refusal."""


def _mount_each(target: bytes, lower: list[bytes], writable: _Writable | None, volatile: bool) -> bool:
    global _one_by_one
    if not _one_by_one or max(map(len, (*lower, *(writable or ())))) > _VALUE:
        return False
    fs = linux.fsopen(b"overlay")
    try:
        linux.fsconfig_set_string(fs, b"source", b"lading")
        try:
            for layer in lower:
                linux.fsconfig_set_string(fs, b"lowerdir+", layer)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _one_by_one = False
            return False
        # Unlike lowerdir+, these two are unescaped (fs/overlayfs/params.c).
        for option, path in zip((b"upperdir", b"workdir"), writable or (), strict=False):
            linux.fsconfig_set_string(fs, option, path.replace(b"\\", b"\\\\"))
        if volatile:
            linux.fsconfig_set_flag(fs, b"volatile")
        linux.fsconfig_create(fs)
        mounted = linux.fsmount(fs)
        try:
            linux.move_mount(mounted, target)
        finally:
            os.close(mounted)
    finally:
        os.close(fs)
    return True


def _mount_at_once(target: bytes, lower: list[bytes], writable: _Writable | None, volatile: bool) -> None:
    options = _options(lower, writable, volatile)
    if len(options) < _PAGE:
        linux.mount(b"lading", target, b"overlay", 0, options)
        return
    opened = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lower]
    try:
        options = _options([b"/proc/self/fd/%d" % fd for fd in opened], writable, volatile)
        linux.mount(b"lading", target, b"overlay", 0, options)
    finally:
        for fd in opened:
            os.close(fd)


def _options(lower: list[bytes], writable: _Writable | None, volatile: bool) -> bytes:
    def escaped(path: bytes) -> bytes:
        return path.replace(b"\\", b"\\\\").replace(b":", b"\\:").replace(b",", b"\\,")

    options = b"lowerdir=" + b":".join(map(escaped, lower))
    if writable is not None:
        options += b",upperdir=%s,workdir=%s" % tuple(map(escaped, writable))
    return options + b",volatile" if volatile else options
