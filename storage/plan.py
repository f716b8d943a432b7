"""What a layer's entries mean, decided without touching a file system: entry in, checked operation out.

The rules are those of OCI image-spec layer.md and, where it is silent, what Docker and containerd accept:
absolute names are taken beneath the root, ``..`` in a name is refused, whiteouts hide what lower layers have.
The result needs no more checking by whoever executes it, except what depends on the tree it meets: symlinks.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from typing import Final, assert_never

import attrs

from lading.events.errors import BadLayer
from lading.storage.tar import Entry, EntryType, Regions

__all__ = [
    "DEFAULT_LIMITS",
    "KEPT_XATTRS",
    "Directory",
    "File",
    "HardLink",
    "Limits",
    "Metadata",
    "Node",
    "NodeKind",
    "Opaque",
    "Operation",
    "Skip",
    "Symlink",
    "Whiteout",
    "plan",
]

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
AUFS: Final = b".wh..wh."

# uid 2**32-1 is "no change" to chown(2). The dev_t of Linux has 12 and 20 bits.
MAX_ID: Final = 2**32 - 2
MAX_MAJOR: Final = 2**12 - 1
MAX_MINOR: Final = 2**20 - 1

# xattr(7): XATTR_NAME_MAX and XATTR_SIZE_MAX.
MAX_XATTR_NAME: Final = 255
MAX_XATTR_VALUE: Final = 64 * 1024

# Everything else is dropped: labels and signatures of another machine (security.selinux, security.ima), lists
# of its users (system.*), and above all trusted.overlay.* and user.overlay.*, with which an image would speak
# to overlayfs itself: bring back what was hidden in lower layers, or redirect a directory.
KEPT_XATTRS: Final = (b"user.", b"security.capability")
_OVERLAY: Final = b"user.overlay."


@attrs.frozen
class Limits:
    """How much one layer may ask for; past any of these it is refused.

    ``entries`` counts implied parent directories too, of whose paths ``implied_bytes`` may be kept.
    ``stream_bytes`` bounds the archive, as it comes and uncompressed, and ``file_bytes`` the sum of all file
    lengths, holes included. Beyond its first ``expansion_free`` bytes that archive may be at most ``expansion``
    times as long as what it was compressed to: gzip can't do more than 1,032, while zstd can do 30,000.
    ``zstd_window`` bounds the memory for a zstd frame, ``header_bytes`` one extended header or sparse map. Paths
    are in bytes.
    """

    entries: int = 2_000_000
    stream_bytes: int = 256 * 2**30
    file_bytes: int = 256 * 2**30
    path_bytes: int = 4095
    path_depth: int = 2048
    component_bytes: int = 255
    header_bytes: int = 2**20
    implied_bytes: int = 64 * 2**20
    expansion: int = 2000
    expansion_free: int = 2**30
    zstd_window: int = 2**27


DEFAULT_LIMITS: Final = Limits()


@attrs.frozen
class Metadata:
    """Mode (12 bits), numeric owner, time in ns since 1970, and the extended attributes that are kept."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes] = attrs.field(factory=dict)


@attrs.frozen
class Directory:
    """Make ``name`` in ``parent``, or give it this metadata; the root itself when ``name`` is empty."""

    parent: bytes
    name: bytes
    metadata: Metadata


@attrs.frozen
class File:
    """Make a file of ``size`` bytes from the entry's data; with ``sparse``, from those pieces and holes."""

    parent: bytes
    name: bytes
    metadata: Metadata
    size: int
    sparse: Regions | None


@attrs.frozen
class HardLink:
    """Make one more name for ``target_name`` in ``target_parent``; no metadata passes through a link."""

    parent: bytes
    name: bytes
    target_parent: bytes
    target_name: bytes


@attrs.frozen
class Symlink:
    """Make a symlink with this text; it is not resolved now, and only ever inside the root."""

    parent: bytes
    name: bytes
    text: bytes
    metadata: Metadata


class NodeKind(enum.Enum):
    """What :class:`Node` makes."""

    CHAR = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


@attrs.frozen
class Node:
    """Make a device or a fifo."""

    parent: bytes
    name: bytes
    kind: NodeKind
    major: int
    minor: int
    metadata: Metadata


@attrs.frozen
class Whiteout:
    """Hide ``name`` of the lower layers, whatever this layer itself has under that name."""

    parent: bytes
    name: bytes


@attrs.frozen
class Opaque:
    """Hide everything that lower layers have in the directory ``parent`` (empty: the root)."""

    parent: bytes
    name: bytes = b""


@attrs.frozen
class Skip:
    """Make nothing, because ``why``."""

    why: str
    parent: bytes = b""
    name: bytes = b""


Operation = Directory | File | HardLink | Symlink | Node | Whiteout | Opaque | Skip

# parent, name: relative to the root, parent without "." or ".." or slashes at either end.


def plan(entry: Entry, limits: Limits = DEFAULT_LIMITS, *, whiteouts: bool = True) -> Operation:
    """The operation that ``entry`` asks for. Raises :class:`BadLayer` when it may not be done anywhere.

    Without ``whiteouts`` the archive is no layer, and names that begin with ``.wh.`` are names like others.
    ``parent`` of the result is a clean relative path, ``name`` one component. Limits on sums are not
    checked here.
    """
    path = entry.name
    head, _, name = path.rpartition(b"/")
    short = len(path) <= limits.component_bytes and len(path) <= limits.path_bytes
    if short and entry.type is EntryType.FILE and WHITEOUT not in path and name not in _NO_NAMES:
        common = _common_parent(head, limits.path_depth)  # nearly always: the directory of the file before
        if common is not None and b"\0" not in name:
            return File(common, name, _metadata(entry), entry.size, entry.sparse)
    parts = _components(path, entry, limits)
    if not parts:
        if entry.type is EntryType.DIR:
            return Directory(b"", b"", _metadata(entry))
        raise BadLayer(f"a {entry.type.value} in place of the root directory", entry.name)
    name = parts.pop()
    parent = b"/".join(parts)
    if whiteouts and WHITEOUT in entry.name and (hidden := _whiteout(parts, parent, name, entry)) is not None:
        return hidden

    match entry.type:
        case EntryType.FILE:
            return File(parent, name, _metadata(entry), entry.size, entry.sparse)
        case EntryType.DIR:
            return Directory(parent, name, _metadata(entry))
        case EntryType.SYMLINK:
            text = entry.linkname
            if not text or b"\0" in text:
                raise BadLayer("a symlink without a target", entry.name)
            if len(text) > 4095:
                raise BadLayer("a symlink target longer than 4095 bytes", entry.name)
            return Symlink(parent, name, text, _metadata(entry))
        case EntryType.HARDLINK:
            target = _target(entry, limits)
            return HardLink(parent, name, b"/".join(target[:-1]), target[-1])
        case EntryType.CHAR:
            return _node(parent, name, NodeKind.CHAR, entry)
        case EntryType.BLOCK:
            return _node(parent, name, NodeKind.BLOCK, entry)
        case EntryType.FIFO:
            return Node(parent, name, NodeKind.FIFO, 0, 0, _metadata(entry))
        case EntryType.SOCKET:
            return Skip("a socket means nothing without the process that listened on it", parent, name)
        case _:
            assert_never(entry.type)


_NO_NAMES: Final = frozenset((b"", b".", b".."))


@functools.lru_cache(256)
def _common_parent(path: bytes, depth: int) -> bytes | None:
    """The clean form of a directory's short ``path``, if nothing is wrong with it."""
    parts = [part for part in path.split(b"/") if part and part != b"."]
    return b"/".join(parts) if b".." not in parts and len(parts) < depth and b"\0" not in path else None


def _components(path: bytes, entry: Entry, limits: Limits) -> list[bytes]:
    """The parts of ``path`` without empty ones and ``.``; refuses ``..``, NUL, and what no kernel takes."""
    if len(path) > limits.path_bytes:
        raise BadLayer(f"a path of {len(path)} bytes; at most {limits.path_bytes} are possible", entry.name)
    if b"\0" in path:
        raise BadLayer("a NUL in the path", entry.name)
    parts = [part for part in path.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise BadLayer("a path with '..' in it", entry.name)
    if len(path) > limits.component_bytes and any(len(part) > limits.component_bytes for part in parts):
        raise BadLayer(f"a name longer than {limits.component_bytes} bytes", entry.name)
    if len(parts) > limits.path_depth:
        raise BadLayer(f"a path {len(parts)} levels deep; at most {limits.path_depth} are accepted", entry.name)
    return parts


def _whiteout(parts: list[bytes], parent: bytes, name: bytes, entry: Entry) -> Operation | None:
    """layer.md, "Whiteouts". The type of the entry does not matter, only its name."""
    for part in (*parts, name):
        if part.startswith(AUFS) and (part is not name or name != OPAQUE):
            return Skip("AUFS's own bookkeeping", parent, name)
    if any(part.startswith(WHITEOUT) for part in parts):
        raise BadLayer("something beneath a whiteout", entry.name)
    if name == OPAQUE:
        return Opaque(parent)
    if not name.startswith(WHITEOUT):
        return None
    hidden = name[len(WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise BadLayer("a whiteout of nothing, or of the directory itself", entry.name)
    return Whiteout(parent, hidden)


def _target(entry: Entry, limits: Limits) -> list[bytes]:
    """The components of a hard link's target: absolute is from the root, ``..`` may not leave the root."""
    clean: list[bytes] = []
    for part in entry.linkname.split(b"/"):
        if part == b"..":
            if not clean:
                raise BadLayer(f"a hard link to {entry.linkname[:200]!r}, outside the layer", entry.name)
            clean.pop()
        elif part and part != b".":
            clean.append(part)
    if not clean:
        raise BadLayer("a hard link to the root directory", entry.name)
    return _components(b"/".join(clean), entry, limits)


def _node(parent: bytes, name: bytes, kind: NodeKind, entry: Entry) -> Node:
    major, minor = entry.devmajor, entry.devminor
    if not (0 <= major <= MAX_MAJOR and 0 <= minor <= MAX_MINOR):
        raise BadLayer(f"device number {major}:{minor} does not exist on Linux", entry.name)
    if kind is NodeKind.CHAR and major == 0 and minor == 0:
        raise BadLayer("a character device 0:0, which is overlayfs's own whiteout", entry.name)
    return Node(parent, name, kind, major, minor, _metadata(entry))


def _metadata(entry: Entry) -> Metadata:
    if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
        raise BadLayer(f"owner {entry.uid}:{entry.gid} does not exist on Linux", entry.name)
    xattrs = entry.xattrs
    if xattrs:
        xattrs = _kept(entry)
    return Metadata(entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime_ns, xattrs)


def _kept(entry: Entry) -> dict[bytes, bytes]:
    kept = {}
    for key, value in entry.xattrs.items():
        if not key.startswith(KEPT_XATTRS) or key.startswith(_OVERLAY):
            continue
        if key.startswith(b"user."):
            # The kernel has user.* for files and directories only (xattr(7)).
            if entry.type not in (EntryType.FILE, EntryType.DIR):
                continue
        elif key != b"security.capability" or entry.type is not EntryType.FILE:
            continue
        if key == b"user." or len(key) > MAX_XATTR_NAME or len(value) > MAX_XATTR_VALUE:
            raise BadLayer(f"an extended attribute that Linux can't hold: {key[:80]!r}", entry.name)
        kept[key] = value
    return kept
