"""A strict, streaming tar reader: bytes in, entries out, in constant memory.

It reads what is found in image layers: ustar, pax (POSIX.1-2008, "pax Interchange Format"), and the GNU
format ("Basic Tar Format" and "Storing Sparse Files" in the GNU tar manual) with long names, base-256
numbers and every generation of sparse files. Anything else is :class:`~lading.events.errors.BadLayer`:
a wrong checksum, an unknown type, a cut in a header or in data, a number that is not one. An archive that
stops between two entries, without its two zero blocks, is accepted, as GNU tar and Go's reader do.

Where readers are known to disagree, so that one archive could mean two things, the rules are:

* a pax ``size`` counts for the data and for finding the next header alike;
* links, devices, directories and fifos have no data whatever their size field says;
* global pax headers are checked for syntax and otherwise ignored, as Docker does;
* two extended headers of one kind for one entry are refused;
* one zero block followed by anything but another is refused; after two, the rest of the stream is read and
  ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, Protocol

import attrs

from lading.events.errors import BadLayer
from lading.storage.paxheader import (
    Pax,
    Regions,
    check_regions,
    decimal,
    parse_records,
    parse_sparse_map,
    parse_time,
    sparse_map_lines,
    sparse_regions,
)
from lading.storage.tarfields import is_misplaced_prefix, octal, sum_is_common, sum_matches

__all__ = ["CHUNK", "MAX_HEADER", "ByteSource", "Entry", "EntryType", "Regions", "TarReader"]

BLOCK: Final = 512
CHUNK: Final = 256 * 1024
MAX_HEADER: Final = 1024 * 1024
MAX_SIZE: Final = 2**63 - 1

# The last time that a signed count of nanoseconds holds (2262) and the first that ext4 and XFS hold (1901).
MAX_MTIME_NS: Final = 2**63 - 1
MIN_MTIME_NS: Final = -(2**31) * 10**9

_ZERO = bytes(BLOCK)
_NO_XATTRS: Final[dict[bytes, bytes]] = {}


class ByteSource(Protocol):
    """What is read from: ``read(n)`` gives 1 to n bytes, or none at the end."""

    def read(self, n: int, /) -> bytes: ...


class EntryType(enum.Enum):
    """What an entry is. SOCKET never holds anything that could be unpacked."""

    FILE = "file"
    HARDLINK = "hard link"
    SYMLINK = "symbolic link"
    CHAR = "character device"
    BLOCK = "block device"
    DIR = "directory"
    FIFO = "fifo"
    SOCKET = "socket"


_TYPES = {
    b"0": EntryType.FILE,
    b"\0": EntryType.FILE,
    b"7": EntryType.FILE,  # contiguous: POSIX says to treat it as a regular file
    b"S": EntryType.FILE,
    b"1": EntryType.HARDLINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHAR,
    b"4": EntryType.BLOCK,
    b"5": EntryType.DIR,
    b"6": EntryType.FIFO,
    b"s": EntryType.SOCKET,
}


@attrs.frozen
class Entry:
    """One member, with every extension applied; nothing in it has been checked against a file system.

    ``name`` and ``linkname`` are the bytes of the archive. ``size`` is the file's length in bytes, 0 for
    whatever is not a FILE. ``mtime_ns`` is clamped to 1901..2262. ``sparse`` is None, or the (offset, length)
    pieces that :meth:`TarReader.data` gives one after the other, ascending, everything between being holes.
    ``xattrs`` has the ``SCHILY.xattr.`` records. ``uid``, ``gid`` and ``mode`` may have any value.
    """

    name: bytes
    type: EntryType
    linkname: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    devmajor: int
    devminor: int
    xattrs: dict[bytes, bytes]
    sparse: Regions | None


@attrs.define
class _Extensions:
    """What the headers before an entry said about it."""

    pax: Pax | None = None
    longname: bytes | None = None
    longlink: bytes | None = None


_NO_EXTENSIONS = _Extensions()


class TarReader:
    """An iterator of the entries of ``source``; :meth:`data` reads the current one.

    Moving on skips whatever of the current entry was not read. When the iteration ends, ``source`` has been
    read to its end. Raises :class:`BadLayer` naming the entry, after which the reader is of no more use, and
    whatever ``source.read`` raises.

    ``raw`` is given every byte of the stream, in order, but those that :meth:`data` or :meth:`piece` gave to the
    caller. ``max_header`` bounds an extended header and a sparse map, in bytes.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        raw: Callable[[bytes | memoryview], object] | None = None,
        max_header: int = MAX_HEADER,
    ) -> None:
        self._source = source
        self._raw = raw
        self._max_header = max_header
        self._numbers: dict[bytes, int] = {}  # fields seen before: most entries have the same owner, mode and time
        self._buffer = b""
        self._view = memoryview(b"")
        self._position = 0  # of the first unread byte in the buffer
        self._told = 0  # up to where the buffer was given to ``raw`` or to the caller
        self._consumed = 0  # bytes of the stream before the buffer
        self._left = 0  # stored bytes of the current entry still unread
        self._padding = 0
        self._serial = 0
        self._name = b""  # for messages: the entry, or the last one before the trouble

    @property
    def offset(self) -> int:
        """How many bytes of the stream have been used."""
        return self._consumed + self._position

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        self._serial += 1
        self._skip()
        extensions = _NO_EXTENSIONS
        while True:
            block = self._next_block()
            if block is None:
                if extensions is not _NO_EXTENSIONS:
                    self._bad("the archive ends after an extended header, before the entry it describes")
                self._drain()
                raise StopIteration
            if not sum_is_common(block):
                self._check_sum(block, block[148:156])
            kind = block[156:157]
            if kind in b"xgLK":
                if extensions is _NO_EXTENSIONS and kind != b"g":
                    extensions = _Extensions()
                self._extend(extensions, kind, self._octal(block[124:136], "size"))
                continue
            return self._entry(block, kind, extensions)

    def data(self) -> Iterator[memoryview]:
        """The current entry's stored bytes in pieces of at most 256 KiB.

        For a sparse file these are its ``sparse`` regions, end to end. The iterator ends early when the
        reader moves to another entry.
        """
        serial = self._serial
        while self._left and serial == self._serial:
            yield self.piece()

    def piece(self) -> memoryview:
        """The next of the current entry's stored bytes, at most 256 KiB; empty when there are no more."""
        left = self._left
        end = self._position + left
        if self._told < self._position:
            self._tell()
        if left <= CHUNK and end <= len(self._buffer):
            piece = self._view[self._position : end]
            self._told = self._position = end
            self._left = 0
            return piece
        piece = self._some(min(left, CHUNK))
        self._told = self._position
        self._left = left - len(piece)
        return piece

    # bytes

    def _fill(self) -> bool:
        """Put at least one more byte behind the unread ones; False at the end of the stream."""
        more = self._source.read(CHUNK)
        if not more:
            return False
        self._tell()
        self._told = 0
        self._consumed += self._position
        self._buffer = self._buffer[self._position :] + more if self._position < len(self._buffer) else more
        self._view = memoryview(self._buffer)
        self._position = 0
        return True

    def _tell(self) -> None:
        """Give ``raw`` what was read since it was told last: headers and padding, all at once."""
        if self._raw is not None and self._told < self._position:
            self._raw(self._view[self._told : self._position])
        self._told = self._position

    def _some(self, most: int) -> memoryview:
        if self._position == len(self._buffer) and not self._fill():
            self._bad(f"the archive is cut off inside this entry's data, at byte {self.offset}")
        start = self._position
        self._position = min(start + most, len(self._buffer))
        return self._view[start : self._position]

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._some(min(size, CHUNK))
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _next_block(self) -> bytes | None:
        """The next header block, or None at the end of the archive."""
        block = self._block()
        if block != _ZERO:
            return block
        if self._block() not in (_ZERO, None):
            self._bad(f"a single zero block before byte {self.offset}: entries follow the end of the archive")
        return None

    def _block(self) -> bytes | None:
        while len(self._buffer) - self._position < BLOCK:
            if not self._fill():
                if self._position == len(self._buffer):
                    return None
                self._bad(f"the archive is cut off inside the header at byte {self.offset}, after this entry")
        start = self._position
        self._position = start + BLOCK
        return self._buffer[start : self._position]

    def _skip(self) -> None:
        """Pass over what is left of the current entry, and its padding."""
        while self._left:
            self._left -= len(self._some(min(self._left, CHUNK)))
        end = self._position + self._padding
        if end <= len(self._buffer):
            self._position, self._padding = end, 0
            return
        while self._padding:
            # A last entry without all of its padding has still all of its data.
            if self._position == len(self._buffer) and not self._fill():
                self._padding = 0
                return
            self._padding -= len(self._some(self._padding))

    def _drain(self) -> None:
        while True:
            self._position = len(self._buffer)
            if not self._fill():
                self._tell()
                return

    # headers

    def _bad(self, why: str) -> NoReturn:
        raise BadLayer(why, self._name)

    def _check_sum(self, block: bytes, field: bytes) -> None:
        if not sum_matches(block, self._octal(field, "checksum")):
            self._bad(f"the header at byte {self.offset - BLOCK}, after this entry, has a wrong checksum")

    def _number(self, field: bytes, what: str) -> int:
        """``_octal`` of a field that is likely to be the same in many headers."""
        found = self._numbers.get(field)
        if found is None:
            found = self._octal(field, what)
            if len(self._numbers) < 4096:
                self._numbers[field] = found
        return found

    def _octal(self, field: bytes, what: str) -> int:
        try:
            return octal(field)
        except ValueError:
            self._bad(f"the {what} {field!r} is not octal")

    def _extend(self, extensions: _Extensions, kind: bytes, size: int) -> None:
        if not 0 <= size <= self._max_header:
            self._bad(f"an extended header of {size} bytes; at most {self._max_header} are accepted")
        data = self._exactly(size)
        self._padding = -size % BLOCK
        self._skip()
        if kind == b"g":
            parse_records(data, self._name)
        elif kind == b"x":
            if extensions.pax is not None:
                self._bad("two pax headers for one entry")
            extensions.pax = parse_records(data, self._name)
        else:
            name = data.rstrip(b"\0")
            if b"\0" in name:
                self._bad("a NUL inside a long name")
            if kind == b"L":
                if extensions.longname is not None:
                    self._bad("two long names for one entry")
                extensions.longname = self._name = name
            else:
                if extensions.longlink is not None:
                    self._bad("two long link names for one entry")
                extensions.longlink = name

    def _entry(self, block: bytes, flag: bytes, extensions: _Extensions) -> Entry:
        name = block[:100].partition(b"\0")[0]
        link = block[157:257].partition(b"\0")[0] if block[157] else b""
        if block[345]:  # a prefix, or what other formats have there
            magic, prefix = block[257:265], block[345:500]
            if magic[:6] == b"ustar\0":
                if block[508:] == b"tar\0":
                    prefix = prefix[:131]  # star's variant of ustar, with times behind a shorter prefix
                if prefix[0]:
                    name = prefix.partition(b"\0")[0] + b"/" + name
            elif magic == b"ustar  \0" and is_misplaced_prefix(prefix):
                name = prefix.partition(b"\0")[0] + b"/" + name
        self._name = name

        size = self._octal(block[124:136], "size")
        mode = self._number(block[100:108], "mode")
        uid = self._number(block[108:116], "uid")
        gid = self._number(block[116:124], "gid")
        mtime_ns = self._number(block[136:148], "mtime") * 1_000_000_000
        xattrs = _NO_XATTRS
        pax = extensions.pax
        if pax is not None:
            values = pax.values
            self._name = name = values.get(b"path", name)
            link = values.get(b"linkpath", link)
            if b"size" in values:
                size = decimal(values[b"size"], "pax size", name)
            if b"uid" in values:
                uid = decimal(values[b"uid"], "pax uid", name)
            if b"gid" in values:
                gid = decimal(values[b"gid"], "pax gid", name)
            if b"mtime" in values:
                mtime_ns = parse_time(values[b"mtime"], name)
            xattrs = pax.xattrs
        if extensions.longname:
            self._name = name = extensions.longname
        if extensions.longlink:
            link = extensions.longlink
        if not 0 <= size <= MAX_SIZE:
            self._bad(f"its size is {size}")

        type_ = _TYPES.get(flag)
        if type_ is None:
            self._bad(f"entries of type {flag!r} are not supported")
        is_file = type_ is EntryType.FILE
        if is_file and name[-1:] == b"/":
            # Before POSIX had a type for them, a directory was a file with a slash after its name.
            if size:
                self._bad(f"a file name that ends in a slash, with {size} bytes of data")
            type_, is_file = EntryType.DIR, False
        devmajor = devminor = 0
        if flag in b"34":
            devmajor = self._octal(block[329:337], "device major number")
            devminor = self._octal(block[337:345], "device minor number")

        stored = size if is_file else 0
        length, sparse = stored, None
        self._left = stored
        if flag == b"S":
            length, sparse = self._old_gnu_sparse(block)
        elif pax is not None and pax.is_sparse:
            if not is_file:
                self._bad(f"a {type_.value} that is marked as a sparse file")
            self._name = name = pax.values.get(b"GNU.sparse.name", name)
            length, sparse = self._pax_sparse(pax)
        if sparse is not None:
            check_regions(sparse, length, self._left, name)
        self._padding = -stored % BLOCK
        return Entry(
            name,
            type_,
            link,
            mode,
            uid,
            gid,
            mtime_ns if 0 <= mtime_ns < MAX_MTIME_NS else min(max(mtime_ns, MIN_MTIME_NS), MAX_MTIME_NS),
            length,
            devmajor,
            devminor,
            xattrs,
            sparse,
        )

    # sparse files

    def _old_gnu_sparse(self, block: bytes) -> tuple[int, Regions]:
        """GNU tar manual, "Old GNU Format": four regions in the header, 21 in each block after it."""
        length = self._octal(block[483:495], "real size")
        regions = self._region_fields(block[386:482])
        more = block[482]
        while more:
            if len(regions) * 24 > self._max_header:
                self._bad("its sparse map is larger than any that is accepted")
            table = self._exactly(BLOCK)
            regions += self._region_fields(table[:504])
            more = table[504]
        return length, tuple(regions)

    def _region_fields(self, table: bytes) -> list[tuple[int, int]]:
        regions = []
        for at in range(0, len(table), 24):
            if not table[at]:
                break
            regions.append(
                (
                    self._octal(table[at : at + 12], "sparse offset"),
                    self._octal(table[at + 12 : at + 24], "sparse length"),
                )
            )
        return regions

    def _pax_sparse(self, pax: Pax) -> tuple[int, Regions]:
        length, regions = sparse_regions(pax, self._name)
        if regions is None:  # format 1.0: the map stands before the data
            text = self._map_block()
            pieces, found = [text], text.count(b"\n")
            lines = sparse_map_lines(text, self._name)
            while found < lines:
                if len(pieces) * BLOCK >= self._max_header:
                    self._bad("its sparse map is larger than any that is accepted")
                text = self._map_block()
                pieces.append(text)
                found += text.count(b"\n")
            regions = parse_sparse_map(b"".join(pieces), lines, self._name)
        return length, regions

    def _map_block(self) -> bytes:
        if self._left < BLOCK:
            self._bad("its sparse map is cut off")
        self._left -= BLOCK
        return self._exactly(BLOCK)
