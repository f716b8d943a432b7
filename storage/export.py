"""An export: a part of the history as checked lines of JSON, from which the exact records can be made again.

::

    {"format":"lading-export","version":1,"store":"<id>","after":0,"chain":"<hex>","schemas":[..]}
    {"position":1,..,"chain":"<hex>"}                                  one line a record (storage/recordlines)
    {"end":true,"records":1,"position":1,"chain":"<hex>","sha256":"<hex>"}

``after`` and ``chain`` in the header are the position before the first record and that record's chain (0 and 32
zero bytes at the beginning of a history), so that exports follow on one another. ``schemas`` has the names of
the fields of each schema that is written by name. ``sha256`` is of all bytes before the last line. Plain or
gzip: the header tells apart by its first bytes.

Reading trusts nothing. Each record is encoded again, and must give the chain and the line that are there: so
every character counts, a wrong one is told by its line, and what has been read up to there can be believed to
be what the line's chain says. Only when the reader has come to its end is it known to be the whole. Memory is that
of one page in writing and one line in reading.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NoReturn, cast

import attrs

from lading.events.codec import GENESIS
from lading.events.errors import ExportInvalid, HostError, StoreCorrupt
from lading.storage.recordlines import Layouts, as_line, canonical, check_layouts, from_line, layouts_today

__all__ = ["ExportReader", "Header", "Summary", "read_export", "write_export"]

_NAME = "lading-export"
_VERSION = 1
_LINE = 64 << 20
"""The longest line, in writing and in reading: many times what the longest request makes a record of."""
_HEADER_LINE = 1 << 20
_IDENTITY = re.compile(r"[0-9a-f]{32}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_CHAIN = len(GENESIS)


@attrs.frozen
class Header:
    """Whose history it is, and what it follows: ``chain`` is that of the record at position ``after``."""

    store: str
    after: int = 0
    chain: bytes = GENESIS


@attrs.frozen
class Summary:
    """What an export holds: ``records`` after ``header``, up to ``position``, whose chain is ``chain``.

    ``sha256`` (hex) is over all lines but the last.
    """

    header: Header
    records: int
    position: int
    chain: bytes
    sha256: str


def write_export(
    out: BinaryIO, header: Header, pages: Iterable[list[tuple[int, bytes]]], *, compress: bool = False
) -> Summary:
    """Write the records of ``pages`` (positions and stored bytes, from ``header.after + 1`` on) to ``out``.

    The same records give the same bytes, compressed (gzip) too. ``out`` is neither closed nor synced. Raises
    ``StoreCorrupt`` for a record that does not follow from the one before it or can't be written as JSON, and what
    ``out`` and ``pages`` raise; what was written by then has no last line, so that ``read_export`` refuses it.
    """
    with contextlib.ExitStack() as stack:
        if compress:
            packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0)
            out = cast("BinaryIO", stack.enter_context(packed))
        return _write(out, header, pages)


def _write(out: BinaryIO, header: Header, pages: Iterable[list[tuple[int, bytes]]]) -> Summary:
    layouts = layouts_today()
    first = _header_line(header, layouts)
    digest = hashlib.sha256(first)
    out.write(first)
    position, chain = header.after, header.chain
    for page in pages:
        lines = []
        for at, stored in page:
            position += 1
            if at != position:
                raise StoreCorrupt(position, "the record is missing")
            if hashlib.sha256(chain + stored[:-_CHAIN]).digest() != stored[-_CHAIN:]:
                raise StoreCorrupt(position, "its hash does not follow from the record before it")
            chain = stored[-_CHAIN:]
            try:
                line = as_line(stored, layouts)
            except ValueError as error:
                raise StoreCorrupt(position, f"it can't be exported: {error}") from error
            if len(line) > _LINE:
                raise StoreCorrupt(position, f"it can't be exported: as a line it is longer than {_LINE} bytes")
            lines.append(line)
        text = b"".join(lines)
        digest.update(text)
        out.write(text)
    summary = Summary(header, position - header.after, position, chain, digest.hexdigest())
    out.write(_end_line(summary))
    return summary


def read_export(source: BinaryIO, name: str = "") -> ExportReader:
    """A reader of the export that ``source`` gives; ``name`` is what errors call it.

    Raises ``ExportInvalid`` if it does not begin like one, and ``HostError`` if it can't be read.
    """
    return ExportReader(source, name)


class ExportReader:
    """``header``; then, once, an iterator of (position, stored bytes), each of them checked.

    ``summary`` is None until the iterator has come to its end: whoever stops before that has no whole export.
    Raises ``ExportInvalid`` with the line and position of what is wrong, and ``HostError`` when ``source`` fails.
    """

    def __init__(self, source: BinaryIO, name: str) -> None:
        self.summary: Summary | None = None
        self._name = name
        self._line = 0
        self._position = 0
        self._digest = hashlib.sha256()
        self._lines = self._open(source)
        header, self._layouts = self._read_header()
        self.header: Header = header

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        position, chain = self.header.after, self.header.chain
        while True:
            self._position = position + 1
            before = self._digest.hexdigest()
            line = self._next()
            value = self._parse(line)
            if "end" in value:
                break
            stored = self._record(line, value, chain)
            position, chain = position + 1, stored[-_CHAIN:]
            yield position, stored
        self._position = 0
        summary = Summary(self.header, position - self.header.after, position, chain, before)
        self._check_end(line, value, summary)
        self.summary = summary

    # -- lines ------------------------------------------------------------------------------------------

    def _open(self, source: BinaryIO) -> io.BufferedIOBase:
        start = b""
        with self._reading():
            while len(start) < 2 and (more := source.read(2 - len(start))):
                start += more
        whole = io.BufferedReader(_Joined(start, source), 1 << 18)
        if start == b"\x1f\x8b":
            return gzip.GzipFile(fileobj=whole, mode="rb")
        return whole

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._fail(f"its gzip data is cut off or damaged ({error}); fetch or make it again")
        except OSError as error:
            raise HostError("read", self._name or "the export", error.errno or 0) from error

    def _next(self, most: int = _LINE) -> bytes:
        """The next line without its newline."""
        self._line += 1
        with self._reading():
            line = self._lines.readline(most)
        if not line.endswith(b"\n"):
            if len(line) == most:
                self._fail(f"the line is longer than {most} bytes")
            self._fail("it is cut off: its last line, which has the end, is missing; fetch or make it again")
        self._digest.update(line)
        return line[:-1]

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except RecursionError:
            self._fail("it is nested too deep")
        except ValueError as error:  # UnicodeDecodeError is one
            self._fail(f"it is not JSON: {error}")
        if type(value) is not dict:
            self._fail("it is not a JSON object")
        return cast("dict[str, Any]", value)

    def _fail(self, why: str) -> NoReturn:
        raise ExportInvalid(self._line, self._position, why, self._name)

    # -- the kinds of lines -----------------------------------------------------------------------------

    def _read_header(self) -> tuple[Header, Layouts]:
        line = self._next(_HEADER_LINE)
        value = self._parse(line)
        if value.get("format") != _NAME:
            self._fail("it is no export: its first line does not say that it is")
        version = value.get("version")
        if type(version) is not int or version < 1:
            self._fail("its header has no version")
        if version > _VERSION:
            self._fail(
                f"it has version {version}, and this release reads up to {_VERSION}: install a newer lading"
            )
        try:
            header = Header(value["store"], value["after"], bytes.fromhex(value["chain"]))
            layouts = {(tag, schema): names for tag, schema, names in value["schemas"]}
            self._check_header(header, layouts)
            same = _header_line(header, layouts) == line + b"\n"
        except RecursionError:
            self._fail("it is nested too deep")
        except (KeyError, TypeError, ValueError) as error:
            self._fail(f"its header is not one: {error}")
        if not same:
            self._fail("its header was changed: it is not as it was written")
        return header, layouts

    def _check_header(self, header: Header, layouts: Layouts) -> None:
        if type(header.store) is not str or not _IDENTITY.fullmatch(header.store):
            raise ValueError("the store's identity is not 32 hexadecimal digits")
        if type(header.after) is not int or not 0 <= header.after < 2**64 or len(header.chain) != _CHAIN:
            raise ValueError("it does not say what it follows")
        if header.after == 0 and header.chain != GENESIS:
            raise ValueError("the chain before the first record of all is not zero")
        if any(type(tag) is not str or type(schema) is not int for tag, schema in layouts):
            raise ValueError("its schemas are not (type, number, names)")
        check_layouts(layouts)

    def _record(self, line: bytes, value: dict[str, Any], previous: bytes) -> bytes:
        if value.get("position") != self._position:
            self._fail(f"it is position {value.get('position')!r:.40}, where {self._position} comes next")
        try:
            stored = from_line(value, self._layouts, previous)
            same = as_line(stored, self._layouts) == line + b"\n"
        except RecursionError:
            self._fail("it is nested too deep")
        except ValueError as error:
            self._fail(str(error))
        if stored[-_CHAIN:].hex() != value.get("chain"):
            self._fail("the record was changed: its hash does not follow from it and the record before it")
        if not same:
            self._fail("the line was changed: the same record is written in another way")
        return stored

    def _check_end(self, line: bytes, value: dict[str, Any], summary: Summary) -> None:
        expected = _end_line(summary)
        if line + b"\n" != expected:
            wanted = json.loads(expected)
            wrong = [name for name in wanted if value.get(name) != wanted[name]]
            self._fail(f"the end does not fit what is before it: {', '.join(wrong) or 'it was changed'}")
        with self._reading():
            more = self._lines.read(1)
        if more:
            self._line += 1
            self._fail("there is more after the line that has the end")


class _Joined(io.RawIOBase):
    """What was read of ``source`` already, and then the rest of it."""

    def __init__(self, start: bytes, source: BinaryIO) -> None:
        self._start, self._source = start, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._start or self._source.read(len(buffer))
        data, self._start = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _header_line(header: Header, layouts: Layouts) -> bytes:
    value = {
        "format": _NAME,
        "version": _VERSION,
        "store": header.store,
        "after": header.after,
        "chain": header.chain.hex(),
        "schemas": [[tag, schema, names] for (tag, schema), names in layouts.items()],
    }
    return canonical(value) + b"\n"


def _end_line(summary: Summary) -> bytes:
    value = {
        "end": True,
        "records": summary.records,
        "position": summary.position,
        "chain": summary.chain.hex(),
        "sha256": summary.sha256,
    }
    return canonical(value) + b"\n"
