"""Image archives, read in one go: every member is taken as it comes, since what says what it is may come last.

A member that looks like JSON is kept as it is, within limits; one that begins like a tar or like compressed data
is unpacked as a layer, straight from the stream; anything else is passed over. What a member is for, and whether
it had to be there, is found out afterwards by :mod:`lading.events.imagearchive`: so a layer that can't be
unpacked is no error until an image needs it. The archive itself may be compressed, and is what ``docker save``,
podman, skopeo or buildx write, or any tar of an OCI image layout.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import attrs

from lading.events.errors import BadLayer, HostError, ImageInvalid
from lading.events.ids import Digest
from lading.events.member import LayerFacts, clean_member
from lading.storage.causes import host_hint
from lading.storage.decode import PIECE
from lading.storage.layerstream import LayerStream
from lading.storage.plan import DEFAULT_LIMITS, Limits
from lading.storage.room import Room
from lading.storage.split import SplitWriter
from lading.storage.tar import CHUNK, ByteSource, Entry, EntryType, TarReader
from lading.storage.tarfields import octal, sum_matches
from lading.storage.trees import printable, remove_tree
from lading.storage.unpack import Unpacked, unpack

__all__ = ["ArchiveContents", "ArchiveLimits", "ArchivedLayer", "read_archive"]

_BLOCK: Final = 512
_COMPRESSED: Final = re.compile(
    rb"\x1f\x8b|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18|\xfd7zXZ\0|BZh[1-9]|\x04\x22\x4d\x18", re.DOTALL
)
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class ArchiveLimits:
    """How much an archive may ask for; past any of these it is refused.

    ``layer``: for one layer, and in entries and plain bytes for all of them together. ``archive``: for the archive
    as such. ``name_bytes``: the names of all members that are kept. A single document that is longer than
    ``document_bytes`` is as good as missing.
    """

    layer: Limits = DEFAULT_LIMITS
    archive: Limits = DEFAULT_LIMITS
    members: int = 100_000
    layers: int = 10_000
    name_bytes: int = 16 * 2**20
    document_bytes: int = 4 * 2**20
    documents_bytes: int = 64 * 2**20


_LIMITS: Final = ArchiveLimits()


@attrs.frozen
class ArchivedLayer:
    """An unpacked layer: its tree, and what makes its archive again: a ``split`` if it was plain, else the
    ``blob`` as it came.
    """

    directory: str
    split: str | None
    blob: str | None
    unpacked: Unpacked

    @property
    def facts(self) -> LayerFacts:
        """What an image's documents are compared with."""
        made = self.unpacked
        return LayerFacts(Digest(made.digest), made.compressed_size, Digest(made.diff_id), made.size)


@attrs.frozen
class ArchiveContents:
    """What the members turned out to be, by their clean names.

    ``links``: symlinks and hard links, with the member that they lead to. ``broken``: members that could not be
    read, and why.
    """

    documents: Mapping[str, bytes]
    layers: Mapping[str, ArchivedLayer]
    links: Mapping[str, str]
    broken: Mapping[str, ImageInvalid]

    @property
    def facts(self) -> dict[str, LayerFacts]:
        """Of each layer."""
        return {name: layer.facts for name, layer in self.layers.items()}


Progress = Callable[[str, int, int], None]


def read_archive(
    source: ByteSource,
    staging: Path | int,
    limits: ArchiveLimits = _LIMITS,
    *,
    progress: Progress | None = None,
    threads: int = 0,
) -> ArchiveContents:
    """Read the archive that ``source`` gives to its end; each layer goes into a new directory in ``staging``.

    ``staging`` is an empty directory, by its path or a descriptor (which stays open). In it, ``<n>/tree`` is a
    layer and beside that is ``split`` or ``blob``. ``progress`` is called with a layer's member name, how many of
    its bytes were taken, and its size; what it raises goes through. ``threads``: as for ``LayerStream``, for the
    archive itself and for each layer in it.

    Raises :class:`ImageInvalid` when the archive is to blame (it is no tar, is cut off, has a name that leads out
    of it, two different members of one name, or more of anything than ``limits`` allow), :class:`HostError` when
    the machine is, and what ``source`` raises. After an exception ``staging`` holds whatever was there, for the
    caller to remove. Nothing is synced, and nothing is to be believed before ``read_images`` has compared it.
    """
    where, at = (".", staging) if isinstance(staging, int) else (staging, None)
    try:
        fd = os.open(where, _DIRECTORY, dir_fd=at)
    except OSError as error:
        raise HostError("open the staging directory", str(staging), error.errno or 0) from error
    try:
        return _Reading(source, fd, limits, progress or _silent, threads).run()
    finally:
        os.close(fd)


def _silent(name: str, taken: int, size: int) -> None:
    pass


class _Broken(Exception):
    """The archive around a member is at fault, not the member."""

    def __init__(self, why: ImageInvalid) -> None:
        super().__init__()
        self.why = why


class _Member:
    """The bytes of one member, as a source of its own: it ends where the member does."""

    def __init__(self, pieces: Iterator[memoryview], told: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._told = told
        self._rest = b""
        self._taken = 0

    def peek(self, size: int) -> bytes:
        """The first ``size`` bytes, or all if there are not as many; they are still to be read."""
        while len(self._rest) < size and (piece := self._next()):
            self._rest += piece
        return self._rest[:size]

    def read(self, n: int, /) -> bytes:
        piece = self._rest or self._next()
        self._rest = piece[n:]
        self._taken += len(piece) - len(self._rest)
        self._told(self._taken)
        return piece[:n]

    def _next(self) -> bytes:
        try:
            return bytes(next(self._pieces, b""))
        except ImageInvalid as error:
            raise _Broken(error) from error


class _Blob:
    """A file that is made once there is something to write."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._fd = -1

    def write(self, data: bytes, /) -> None:
        if self._fd < 0:
            self._fd = os.open("blob", _NEW, 0o600, dir_fd=self._directory)
            self._room = Room(self._fd)
        self._room.take(len(data))
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def __enter__(self) -> _Blob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Reading:
    """One archive being read."""

    def __init__(
        self, source: ByteSource, staging: int, limits: ArchiveLimits, progress: Progress, threads: int
    ) -> None:
        self._stream = LayerStream(source, limits=limits.archive, threads=threads)
        self._threads = threads
        self._staging = staging
        self._limits = limits
        self._progress = progress
        self._documents: dict[str, bytes] = {}
        self._layers: dict[str, ArchivedLayer] = {}
        self._links: dict[str, str] = {}
        self._broken: dict[str, ImageInvalid] = {}
        self._members = 0
        self._made = 0
        self._name_bytes = 0
        self._document_bytes = 0
        self._left = limits.layer

    def run(self) -> ArchiveContents:
        try:
            reader = TarReader(self._stream)
            for entry in reader:
                self._member(entry, reader)
        except _Broken as error:
            raise _of_the_archive(error.why) from error.why
        except BadLayer as error:
            raise _of_the_archive(error) from error
        finally:
            self._stream.close()
        return ArchiveContents(self._documents, self._layers, self._links, self._broken)

    def _member(self, entry: Entry, reader: TarReader) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise ImageInvalid(f"the archive has more than {self._limits.members} members")
        if entry.type not in (EntryType.FILE, EntryType.SYMLINK, EntryType.HARDLINK):
            return
        try:
            text = entry.name.decode()
        except UnicodeDecodeError:
            return  # no document can name it
        name = clean_member(text)
        if name is None or "\0" in text:
            raise ImageInvalid(f"the archive has a member {printable(entry.name[:200])!r}, which leads out of it")
        if entry.type is not EntryType.FILE:
            self._link(name, entry)
            return
        if entry.sparse is not None:
            self._broken[self._new(name)] = ImageInvalid("it is a sparse file")
            return
        member = _Member(reader.data(), lambda taken: self._progress(name, taken, entry.size))
        start = member.peek(_BLOCK)
        if start.lstrip(b" \t\r\n")[:1] in (b"{", b"[") and not _is_header(start):
            self._document(name, entry.size, member)
        elif _is_header(start) or start == bytes(_BLOCK) or _COMPRESSED.match(start):
            self._layer(name, member)

    def _link(self, name: str, entry: Entry) -> None:
        """A symlink is relative to its directory, a hard link to the archive."""
        text = entry.linkname.decode("utf-8", "replace")
        parts = [] if entry.type is EntryType.HARDLINK else name.split("/")[:-1]
        for part in text.split("/"):
            if part == ".." and parts:
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)  # ".." above the root stays, and leads nowhere
        target = "/" + text if text.startswith("/") else "/".join(parts)
        if self._links.get(name) != target:
            self._name_bytes += len(text)
            self._links[self._new(name)] = target

    def _new(self, name: str) -> str:
        """``name``, which nothing else had before."""
        if name in self._documents or name in self._layers or name in self._links or name in self._broken:
            raise ImageInvalid(f"the archive has two different members {name[:200]!r}")
        self._name_bytes += len(name)
        if self._name_bytes > self._limits.name_bytes:
            raise ImageInvalid(
                f"the names in the archive are longer than {self._limits.name_bytes} bytes together"
            )
        return name

    def _document(self, name: str, size: int, member: _Member) -> None:
        if size > self._limits.document_bytes:
            self._broken[self._new(name)] = ImageInvalid(
                f"it is longer than the {self._limits.document_bytes} bytes that a document may have"
            )
            return
        content = b""
        while piece := member.read(CHUNK):
            content += piece
        if self._documents.get(name) == content:
            return
        self._document_bytes += size
        if self._document_bytes > self._limits.documents_bytes:
            raise ImageInvalid(
                f"the archive's documents are longer than {self._limits.documents_bytes} bytes together"
            )
        self._documents[self._new(name)] = content

    def _layer(self, name: str, member: _Member) -> None:
        if self._made >= self._limits.layers:
            raise ImageInvalid(f"the archive has more than {self._limits.layers} layers")
        place = str(self._made)
        self._made += 1
        try:
            layer = self._unpack(place, member)
        except ImageInvalid as error:
            remove_tree(self._staging, place.encode())
            self._broken[self._new(name)] = error
            return
        except OSError as error:
            raise HostError("write the layer", name, error.errno or 0, host_hint(error.errno or 0)) from error
        known = self._layers.get(name)
        if known is not None and known.unpacked.digest == layer.unpacked.digest:
            remove_tree(self._staging, place.encode())
            return
        self._layers[self._new(name)] = layer

    def _unpack(self, place: str, member: _Member) -> ArchivedLayer:
        work = 0

        def stop() -> None:
            nonlocal work
            work += 1

        with contextlib.ExitStack() as opened:
            where = _made(self._staging, place, 0o700, opened)
            tree = _made(where, "tree", 0o755, opened)
            split = _made(where, "split", 0o700, opened)
            blob = opened.enter_context(_Blob(where))
            writer = opened.enter_context(SplitWriter(split))
            try:
                made = unpack(
                    member,
                    tree,
                    limits=self._left,
                    stop=stop,
                    split=writer,
                    tee=blob,
                    lower_links=True,
                    threads=self._threads,
                    wait=True,  # the archive goes on after the member
                )
            except ImageInvalid:
                # What it took before it failed is not known to the byte; it is taken for more than it was.
                self._charge(work, work * PIECE)
                raise
            self._charge(made.entries, made.size)
            if made.compression == "none":
                writer.finish()
                return ArchivedLayer(f"{place}/tree", f"{place}/split", None, made)
            remove_tree(where, b"split")
            return ArchivedLayer(f"{place}/tree", None, f"{place}/blob", made)

    def _charge(self, entries: int, size: int) -> None:
        """Leave less for the layers to come."""
        left = self._left
        self._left = attrs.evolve(
            left,
            entries=max(left.entries - entries, 0),
            stream_bytes=max(left.stream_bytes - size, 0),
            file_bytes=max(left.file_bytes - size, 0),
        )


def _is_header(block: bytes) -> bool:
    """Whether this is a tar's header: 512 bytes with the right checksum."""
    try:
        return len(block) == _BLOCK and sum_matches(block, octal(block[148:156]))
    except ValueError:
        return False


def _of_the_archive(error: ImageInvalid) -> ImageInvalid:
    why = str(error)
    if isinstance(error, BadLayer):
        at = f" at {printable(error.entry[:200])!r}" if error.entry else ""
        why = f"it is damaged or no tar{at}: {error.why}"
    return ImageInvalid(f"the image archive can't be read: {why}")


def _made(parent: int, name: str, mode: int, opened: contextlib.ExitStack) -> int:
    """The descriptor of a new directory, whatever the umask."""
    os.mkdir(name, mode, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    opened.callback(os.close, fd)
    os.fchmod(fd, mode)
    return fd
