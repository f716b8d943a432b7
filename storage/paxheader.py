"""The text forms in tar archives: pax records, their numbers and times, and GNU's sparse maps.

Pure functions from bytes to values; each raises :class:`~lading.events.errors.BadLayer` naming ``entry``.
Sources: POSIX.1-2008 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from lading.events.errors import BadLayer

__all__ = [
    "Pax",
    "Regions",
    "check_regions",
    "decimal",
    "parse_records",
    "parse_sparse_map",
    "parse_time",
    "sparse_map_lines",
    "sparse_regions",
]

Regions = tuple[tuple[int, int], ...]

MAX_REGIONS: Final = 65_536

_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
_NAMES = (b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name")
_TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?")


@attrs.frozen
class Pax:
    """One extended header: its keywords (the last of equal ones wins; an empty value is no value), its
    extended attributes, and the regions of a format 0.0 sparse map, whose records repeat, in order."""

    values: dict[bytes, bytes]
    xattrs: dict[bytes, bytes]
    regions: Regions

    @property
    def is_sparse(self) -> bool:
        """Whether any record says that the entry is a sparse file."""
        return any(key.startswith(_SPARSE) for key in self.values)


def parse_records(data: bytes, entry: bytes) -> Pax:
    """The records ``length key=value newline`` that ``data`` consists of, exactly."""
    values: dict[bytes, bytes] = {}
    xattrs: dict[bytes, bytes] = {}
    offsets: list[int] = []
    lengths: list[int] = []
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + 9)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise BadLayer("a pax record without a length", entry)
        stop = at + int(digits)
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A:
            raise BadLayer("a pax record with a wrong length", entry)
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise BadLayer("a pax record without a keyword", entry)
        at = stop
        if key in _NAMES and b"\0" in value:
            raise BadLayer(f"a NUL in the pax {key.decode()}", entry)
        if key.startswith(_XATTR):
            xattrs[key[len(_XATTR) :]] = value
        elif not value:
            values.pop(key, None)
        else:
            values[key] = value
            if key == b"GNU.sparse.offset":
                offsets.append(decimal(value, "sparse offset", entry))
            elif key == b"GNU.sparse.numbytes":
                lengths.append(decimal(value, "sparse length", entry))
                if len(offsets) != len(lengths):
                    raise BadLayer("its sparse map has a length without an offset", entry)
    if len(offsets) != len(lengths):
        raise BadLayer("its sparse map has an offset without a length", entry)
    return Pax(values, xattrs, tuple(zip(offsets, lengths, strict=True)))


def decimal(text: bytes, what: str, entry: bytes) -> int:
    """An unsigned ASCII decimal number below 2**63."""
    # int() alone would take "+1", " 1", "1_0" and digits of other scripts.
    if not text.isdigit() or len(text) > 19 or (value := int(text)) >= 2**63:
        raise BadLayer(f"the {what} {text[:40]!r} is not a number in range", entry)
    return value


def parse_time(text: bytes, entry: bytes) -> int:
    """Nanoseconds since 1970 of ``seconds[.fraction]``, rounded down; out of any range when the text is."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise BadLayer(f"the pax time {text[:40]!r} is not a number", entry)
    sign, whole, fraction = match.groups()
    seconds = int(whole) if len(whole) < 20 else 10**20
    nanoseconds = seconds * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    if sign:
        nanoseconds = -nanoseconds
        if fraction and fraction[9:].strip(b"0"):
            nanoseconds -= 1
    return nanoseconds


def sparse_regions(pax: Pax, entry: bytes) -> tuple[int, Regions | None]:
    """The real length of a pax sparse file and its map; None when that stands before the data (format 1.0)."""
    values = pax.values
    version = values.get(b"GNU.sparse.major"), values.get(b"GNU.sparse.minor")
    if version == (b"1", b"0"):
        if b"GNU.sparse.realsize" not in values:
            raise BadLayer("a sparse file without its real size", entry)
        return decimal(values[b"GNU.sparse.realsize"], "real size", entry), None
    if version not in ((None, None), (b"0", b"0"), (b"0", b"1")) or b"GNU.sparse.size" not in values:
        raise BadLayer("a sparse file of an unknown format", entry)
    regions = pax.regions
    if b"GNU.sparse.map" in values:
        numbers = values[b"GNU.sparse.map"].split(b",")
        if len(numbers) % 2:
            raise BadLayer("its sparse map has an offset without a length", entry)
        regions = _pairs(numbers, entry)
    count = values.get(b"GNU.sparse.numblocks")
    if count is not None and decimal(count, "sparse region count", entry) != len(regions):
        raise BadLayer("its sparse map has not as many regions as it says", entry)
    return decimal(values[b"GNU.sparse.size"], "real size", entry), regions


def sparse_map_lines(start: bytes, entry: bytes) -> int:
    """How many lines the map at ``start`` has: the number of regions, then their offsets and lengths."""
    number, newline, _ = start.partition(b"\n")
    if not newline:
        raise BadLayer("its sparse map does not begin with a number", entry)
    count = decimal(number, "sparse region count", entry)
    if count > MAX_REGIONS:
        raise BadLayer(f"a sparse map of {count} regions; at most {MAX_REGIONS} are accepted", entry)
    return 1 + 2 * count


def parse_sparse_map(text: bytes, lines: int, entry: bytes) -> Regions:
    """The map in the first ``lines`` lines of ``text``, which has them."""
    return _pairs(text.split(b"\n", lines)[1:lines], entry)


def _pairs(numbers: list[bytes], entry: bytes) -> Regions:
    if len(numbers) > 2 * MAX_REGIONS:
        raise BadLayer(f"a sparse map of more than {MAX_REGIONS} regions", entry)
    parsed = [decimal(number, "sparse region", entry) for number in numbers]
    return tuple(zip(parsed[::2], parsed[1::2], strict=True))


def check_regions(regions: Regions, length: int, stored: int, entry: bytes) -> None:
    """Ascending, disjoint, inside a file of ``length`` bytes, and together ``stored`` bytes long."""
    at = total = 0
    for offset, size in regions:
        if offset < at or size < 0:
            raise BadLayer("its sparse map is not in order", entry)
        at = offset + size
        total += size
    if not at <= length < 2**63:
        raise BadLayer("its sparse map reaches past its end", entry)
    if total != stored:
        raise BadLayer(f"its sparse map has {total} bytes of data and the archive {stored}", entry)
