"""An export gives back exactly the records it was made of, and nothing that was touched gets through."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import tracemalloc
from typing import Any

import msgpack
import pytest
from histories import histories
from hypothesis import given
from hypothesis import strategies as st
from pasts import STORE, Stored, some_past, spoilt, stored, with_bodies
from strategies import records

from lading.events.codec import GENESIS, encode_record
from lading.events.errors import ExportInvalid, HostError, StoreCorrupt
from lading.storage.export import Header, Summary, read_export, write_export


def exported(past: Stored, header: Header | None = None, *, compress: bool = False) -> bytes:
    out = io.BytesIO()
    pages = [past[at : at + 7] for at in range(0, len(past), 7)]
    write_export(out, header or Header(STORE), pages, compress=compress)
    return out.getvalue()


def imported(data: bytes) -> tuple[Header, Stored, Summary]:
    reader = read_export(io.BytesIO(data), "F")
    past = list(reader)
    assert reader.summary is not None
    return reader.header, past, reader.summary


PAST = some_past()
EXPORT = exported(PAST)


@pytest.mark.slow
@given(histories(), st.booleans())
def test_a_history_comes_back_as_it_was(members: Any, compress: bool) -> None:
    """The same stored bytes, chains included, for any history; and the same export for the same history."""
    past = stored(members)
    data = exported(past, compress=compress)
    header, back, summary = imported(data)
    assert (header, back) == (Header(STORE), past)
    assert (summary.records, summary.position, summary.chain) == (len(past), len(past), past[-1][1][-32:])
    assert exported(back, compress=compress) == data


@given(records, st.binary(min_size=32, max_size=32))
def test_any_record_comes_back_as_it_was(record: Any, before: bytes) -> None:
    """Whatever its fields hold, wherever it stands."""
    header = Header(STORE, record.position - 1, before if record.position > 1 else GENESIS)
    whole, _ = encode_record(record, header.chain)
    assert imported(exported([(record.position, whole)], header))[:2] == (header, [(record.position, whole)])


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text("$abytes")
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("$bytes"), inner, max_size=4),
    max_leaves=12,
)


def body(tag: str, schema: int, fields: Any, position: int = 1) -> list[Any]:
    return [1, position, "s", 1, "e", 5, [None, 0, 0, ""], "c", 0, tag, schema, fields]


@pytest.mark.slow
@given(st.lists(plain), st.sampled_from((("container.exited", 0), ("container.exited", 9), ("not.known", 1))))
def test_events_of_other_schemas_come_back_as_they_are_stored(fields: list[Any], kind: tuple[str, int]) -> None:
    """Older or newer than this release, they are never upcast: raw fields of any type."""
    past = with_bodies([body(*kind, fields)])
    data = exported(past)
    assert json.loads(data.splitlines()[1]).keys() >= {"fields"}
    assert imported(data)[1] == past


def test_what_is_read_by_name_does_not_depend_on_this_release() -> None:
    """An export of a time when a type had other fields is read by the names in its own header."""
    lines = EXPORT.splitlines(keepends=True)
    header = json.loads(lines[0])
    assert ["container.start-requested", 1, ["run"]] in header["schemas"]
    past = with_bodies([body("container.exited", 3, [["x"], None, {"k": "v"}])])
    names = [{"first": ["inner"]}, {"second": ["inner"]}, "third"]
    layouts = {("container.exited", 3): names}
    from lading.storage.recordlines import as_line, from_line

    line = as_line(past[0][1], layouts)
    assert json.loads(line)["data"] == {"first": {"inner": "x"}, "second": None, "third": {"k": "v"}}
    assert from_line(json.loads(line), layouts, GENESIS) == past[0][1]


def test_an_export_explains_itself() -> None:
    """Lines of ASCII JSON that other programs read: names, times, who, and how the chain is made."""
    header, *lines, end = [json.loads(line) for line in EXPORT.splitlines()]
    assert EXPORT.isascii()
    assert (header["format"], header["version"], header["store"]) == ("lading-export", 1, STORE)
    assert (header["after"], header["chain"]) == (0, "0" * 64)
    created = lines[2]
    assert created["type"] == "container.created"
    assert created["data"]["spec"]["args"] == ["sh", "-c", "echo é\x1b[31m"]
    assert created["data"]["spec"]["labels"] == {"$$x": "1", "a": "\n"}
    assert created["utc"] == "2026-01-01T00:00:00.000000002Z"
    assert created["actor"] == {"uid": 0, "gid": 0, "pid": None, "client": "test"}
    assert end["chain"] == lines[-1]["chain"] == PAST[-1][1][-32:].hex()
    assert (end["records"], end["position"]) == (len(PAST), len(PAST))


def test_a_part_says_what_it_follows() -> None:
    part = PAST[3:6]
    header = Header(STORE, 3, PAST[2][1][-32:])
    assert imported(exported(part, header))[:2] == (header, part)
    assert imported(exported([], header))[1:] == ([], imported(exported([], header))[2])
    with pytest.raises(ExportInvalid, match=r"line 2 \(position 4\).*does not follow"):
        imported(exported(part, header).replace(header.chain.hex().encode(), b"1" * 64, 1))


@pytest.mark.parametrize(("line", "what", "data"), list(spoilt(EXPORT)))
def test_every_spoilt_line_is_found_and_named(line: int, what: str, data: bytes) -> None:
    with pytest.raises(ExportInvalid) as refused:
        imported(data)
    assert refused.value.line == line, (what, str(refused.value))
    assert str(refused.value).startswith(f"the export F is wrong at line {line}")
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.long
def test_every_changed_character_is_found_on_its_line() -> None:
    """Each byte of a whole export, changed: the line that is named has it."""
    line = 1
    chance = random.Random(5)
    for at, byte in enumerate(EXPORT):
        for other in {byte ^ 1, byte ^ 0x20, chance.randrange(256)} - {byte}:
            data = EXPORT[:at] + bytes((other,)) + EXPORT[at + 1 :]
            with pytest.raises(ExportInvalid) as refused:
                imported(data)
            # what the header says of names shows where they are used first, or at the end
            assert refused.value.line == line or (line == 1 and refused.value.line > 1), (at, other, refused.value)
        line += byte == 0x0A


def test_what_is_written_otherwise_is_found() -> None:
    """The same values in another form are not what was exported: spaces, order, repeated and unknown names."""
    lines = EXPORT.splitlines(keepends=True)
    second = json.loads(lines[1])
    for changed in (
        json.dumps(second),
        json.dumps(second | {"more": 1}, separators=(",", ":")),
        json.dumps(dict(reversed(second.items())), separators=(",", ":")),
        lines[1].decode().rstrip().replace("{", '{"position":1,', 1),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":NaN'),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":0.0'),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":false'),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":99999999999999999999'),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":' + "9" * 5000),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":"\\ud800"'),
        lines[1].decode().rstrip().replace('"cause":0', '"cause":' + "[" * 100_000 + "]" * 100_000),
        lines[1].decode().rstrip().replace('"type":"', '"type":["x"],"y":"'),
    ):
        with pytest.raises(ExportInvalid, match=r"^the export F is wrong at line 2 \(position 1\)"):
            imported(b"".join([lines[0], changed.encode() + b"\n", *lines[2:]]))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"version":1', b'"version":2', "this release reads up to 1"),
        (b'"version":1', b'"version":true', "has no version"),
        (b'"format":"lading-export"', b'"format":"other"', "it is no export"),
        (STORE.encode(), b"../x", "identity"),
        (b'"after":0', b'"after":-1', "what it follows"),
        (b'"after":0,"chain":"0', b'"after":0,"chain":"1', "not zero"),
        (b'["run"]', b'["run","run"]', "twice"),
        (b'["run"]', b'[{"a":[],"b":[]}]', "a layout is"),
        (b'["run"]', b'"run"', "a layout is"),
        (b'["run"]', b"[" * 900 + b"]" * 900, "layout|deep"),
    ],
)
def test_a_wrong_header_is_told(old: bytes, new: bytes, why: str) -> None:
    with pytest.raises(ExportInvalid, match=why):
        imported(EXPORT.replace(old, new, 1))


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}", b"\x1f", b"\x1f\x8b", b"PK\x03\x04" * 9, b"[]\n", b"null\n", b"1" * 99]
)
def test_what_is_no_export_is_refused(data: bytes) -> None:
    with pytest.raises(ExportInvalid):
        imported(data)


@given(st.data())
def test_a_fuzzed_export_raises_nothing_but_our_own(data: Any) -> None:
    """Random edits, with a taste for JSON: an error of ours, or nothing was changed."""
    packed = data.draw(st.booleans())
    raw = bytearray(gzip.compress(EXPORT, mtime=0) if packed else EXPORT)
    tokens = st.sampled_from(
        (b'"', b"{", b"}", b"[", b"]", b"\n", b",", b":", b"\\u", b"null", b"-", b"e9", b"\0")
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 40))] = data.draw(tokens | st.binary(max_size=8))
    try:
        assert imported(bytes(raw))[1] == PAST
    except ExportInvalid:
        return


@pytest.mark.slow
@pytest.mark.long
def test_damaged_gzip_is_found() -> None:
    """Cut at every length; every bit of it turned: an error of ours, or not one record is another."""
    packed = exported(PAST, compress=True)
    for length in range(len(packed)):
        with pytest.raises(ExportInvalid):
            imported(packed[:length])
    for at in range(len(packed)):
        for bit in range(8):
            changed = bytearray(packed)
            changed[at] ^= 1 << bit
            with contextlib.suppress(ExportInvalid):  # gzip has a few bits that mean nothing
                assert imported(bytes(changed))[1] == PAST
    with pytest.raises(ExportInvalid):
        imported(packed + packed)


class Endless(io.RawIOBase):
    """Data without a line's end, and how much of it was taken."""

    def __init__(self, start: bytes) -> None:
        self.start, self.taken = start, 0

    def read(self, size: int = -1) -> bytes:
        data, self.start = self.start[:size] or b"x" * size, self.start[size:]
        self.taken += len(data)
        return data


@pytest.mark.slow
@pytest.mark.parametrize(("start", "most"), [(b"", 2 << 20), (EXPORT.splitlines(keepends=True)[0], 70 << 20)])
def test_a_line_without_end_is_bounded(start: bytes, most: int) -> None:
    source: Any = Endless(start)
    with pytest.raises(ExportInvalid, match="longer than"):
        list(read_export(source))
    assert source.taken < most


@pytest.mark.slow
def test_a_bomb_is_bounded() -> None:
    """A small gzip file that would be a huge line is given up at the limit."""
    bomb = gzip.compress(EXPORT.splitlines(keepends=True)[0] + b"x" * (300 << 20), 9)
    tracemalloc.start()
    try:
        with pytest.raises(ExportInvalid, match="longer than"):
            imported(bomb)
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.long
def test_memory_does_not_grow_with_the_history() -> None:
    """Ten times the records, written and read: no more memory than for a page and a line."""

    def peaks(count: int) -> tuple[int, int]:
        past = some_past(count // 4)
        pages = (past[at : at + 100] for at in range(0, len(past), 100))
        data, sink = exported(past), Sink()
        tracemalloc.start()
        write_export(sink, Header(STORE), pages)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        source = io.BytesIO(data)
        tracemalloc.start()
        assert sum(1 for _ in read_export(source)) == len(past)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return written, read

    few, many = peaks(1_000), peaks(10_000)
    assert many[0] < few[0] + (1 << 20)
    assert many[1] < few[1] + (1 << 20)


class Sink(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


def test_a_source_that_fails_is_a_host_error() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(HostError, match="cannot read F"):
        read_export(Broken(), "F")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("past", "why"),
    [
        (PAST[:2] + PAST[3:], "at position 3: the record is missing"),
        ([*PAST[:2], (3, PAST[3][1])], "at position 3: its hash"),
        ([(1, b"")], "at position 1"),
        (with_bodies([b"\xc1"]), "can't be decoded"),
        (with_bodies([msgpack.packb(5)]), "not a record"),
        (with_bodies([body("a", 1, [float("nan")])]), "can't be exported"),
        (with_bodies([body("a", 1, [msgpack.ExtType(3, b"x")])]), "ExtType"),
        (with_bodies([body("container.exited", 2, [1])]), "has not the 5 fields"),
        (with_bodies([msgpack.packb(body("a", 1, [1.5]), use_single_float=True)]), "not a record in the form"),
        (with_bodies([msgpack.packb(body("a", 1, [])) + b"\x01"]), "can't be decoded"),
        (with_bodies([body("a", 1, [[[]]], position=1)[:-1]]), "not a record"),
    ],
)
def test_what_can_not_be_made_again_is_not_exported(past: Stored, why: str) -> None:
    """A record that is damaged, or that JSON can't hold, is named; the file then has no end and is refused."""
    out = io.BytesIO()
    with pytest.raises(StoreCorrupt, match=why):
        write_export(out, Header(STORE), [past])
    with pytest.raises(ExportInvalid):
        imported(out.getvalue())
