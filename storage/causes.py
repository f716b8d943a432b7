"""What it means when the system refuses something while a layer is unpacked: whose fault it is, and what to do."""

from __future__ import annotations

import errno
from typing import Final

from lading.events.errors import BadLayer, HostError
from lading.storage.trees import printable

__all__ = ["host_hint", "unpacking_error"]

_HINTS: Final = {
    errno.ENOSPC: "the disk or its inodes are used up; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; raise it or free some space and try again",
    errno.EFBIG: "the file is larger than this file system can hold",
    errno.EPERM: "unpacking layers needs root with CAP_MKNOD, CAP_CHOWN and CAP_SYS_ADMIN",
    errno.EACCES: "unpacking layers needs root with CAP_DAC_OVERRIDE",
    errno.EOPNOTSUPP: "the file system has no extended attributes; put the data root on ext4, XFS or btrfs",
    errno.EROFS: "the data root is on a read-only file system",
    errno.ENOSYS: "Linux 5.6 or later is needed",
    errno.EMFILE: "raise the limit on open files",
    errno.EIO: "the disk is failing; see the kernel's log",
}
_ARCHIVE_ERRNOS: Final = {
    errno.ENAMETOOLONG: "its name or path is too long for the file system",
    errno.ELOOP: "its path leads through a loop of symlinks",
    errno.ENOTDIR: "its path leads through something that is not a directory",
    errno.EXDEV: "its path leads to another file system",
    errno.EILSEQ: "its name can't be stored by the file system",
}


def host_hint(code: int) -> str:
    """What to do about the machine's error ``code``; empty where nothing is known."""
    return _HINTS.get(code, "")


def unpacking_error(error: OSError, entry: bytes) -> BadLayer | HostError:
    """``error``, met at ``entry``, as the archive's fault or the machine's."""
    code = error.errno or 0
    if code in _ARCHIVE_ERRNOS:
        return BadLayer(_ARCHIVE_ERRNOS[code], entry)
    return HostError("unpack", printable(entry), code, host_hint(code))
