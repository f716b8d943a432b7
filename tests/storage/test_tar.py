"""The reader reads what the standards describe, and refuses the rest by name."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.events.errors import BadLayer
from lading.storage.paxheader import parse_time
from lading.storage.tar import CHUNK, MAX_HEADER, Entry, EntryType, TarReader


def read(*pieces: bytes, end: bytes = bytes(1024)) -> list[tuple[Entry, bytes]]:
    reader = TarReader(io.BytesIO(b"".join(pieces) + end))
    return [(entry, b"".join(reader.data())) for entry in reader]


def entries(*pieces: bytes, end: bytes = bytes(1024)) -> list[Entry]:
    return [entry for entry, _ in read(*pieces, end=end)]


def names(*pieces: bytes, end: bytes = bytes(1024)) -> list[bytes]:
    return [entry.name for entry in entries(*pieces, end=end)]


def refused(*pieces: bytes, end: bytes = bytes(1024)) -> BadLayer:
    with pytest.raises(BadLayer) as caught:
        entries(*pieces, end=end)
    return caught.value


def test_every_field_of_a_ustar_header_is_read(tar: Any) -> None:
    (entry, data), (device, _) = read(
        tar.f(b"a/b", b"hello", mode=0o4755, uid=7, gid=8, mtime=12345),
        tar.header(b"dev", b"3", major=5, minor=6),
    )
    assert entry == Entry(b"a/b", EntryType.FILE, b"", 0o4755, 7, 8, 12345 * 10**9, 5, 0, 0, {}, None)
    assert data == b"hello"
    assert (device.type, device.devmajor, device.devminor) == (EntryType.CHAR, 5, 6)


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        (b"0", EntryType.FILE),
        (b"\0", EntryType.FILE),
        (b"7", EntryType.FILE),
        (b"1", EntryType.HARDLINK),
        (b"2", EntryType.SYMLINK),
        (b"3", EntryType.CHAR),
        (b"4", EntryType.BLOCK),
        (b"5", EntryType.DIR),
        (b"6", EntryType.FIFO),
        (b"s", EntryType.SOCKET),
    ],
)
def test_each_type_is_known(tar: Any, flag: bytes, kind: EntryType) -> None:
    assert entries(tar.header(b"n", flag))[0].type is kind


@pytest.mark.parametrize("flag", [b"Z", b"D", b"V", b"M", b"N", b"X", b"A", b"8", b"\xff"])
def test_an_unknown_type_is_an_error_that_names_the_entry(tar: Any, flag: bytes) -> None:
    assert refused(tar.f(b"ok"), tar.header(b"odd", flag)).entry == b"odd"


def test_a_file_with_a_slash_is_a_directory_of_before_posix(tar: Any) -> None:
    assert entries(tar.header(b"d/", b"\0"))[0].type is EntryType.DIR
    refused(tar.f(b"d/", b"data"))


def test_prefixes_of_every_dialect(tar: Any) -> None:
    star = {476: b"00000000000\0", 508: b"tar\0"}
    assert names(
        tar.header(b"n", prefix=b"p/q"),
        tar.header(b"n" * 100, prefix=b"p" * 155),
        tar.header(b"n", prefix=b"p" * 131, raw=star),
        tar.header(b"n", magic=b"ustar  \0", prefix=b"14000000000\x0014000000000\0"),
        tar.header(b"n", magic=b"ustar  \0", prefix=b"written/by/old/go"),
        tar.header(b"n", magic=bytes(8), prefix=b"junk"),
    ) == [b"p/q/n", b"p" * 155 + b"/" + b"n" * 100, b"p" * 131 + b"/n", b"n", b"written/by/old/go/n", b"n"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"\xff\xfe", b"a\nb", b"\x1b[31m", b"a\\b", b" ", b"\xc3\xa9", b"-rf"]
)
def test_names_are_bytes_and_stay_so(tar: Any, name: bytes) -> None:
    assert names(tar.f(name), tar.long(name), tar.f(b"_"), tar.x((b"path", name)), tar.f(b"_")) == [name] * 3


def test_long_names_and_links(tar: Any) -> None:
    name, link = b"n" * 300, b"l" * 300
    (entry,) = entries(tar.long(link, b"K"), tar.long(name), tar.s(b"short", b"short"))
    assert (entry.name, entry.linkname) == (name, link)
    assert names(tar.long(name), tar.f(b"a"), tar.f(b"b")) == [name, b"b"]


def test_pax_overrides_what_the_header_says(tar: Any) -> None:
    (entry, data), (after, _) = read(
        tar.x(
            (b"path", b"long"),
            (b"uid", b"3000000000"),
            (b"gid", b"4"),
            (b"size", b"3"),
            (b"mtime", b"1.25"),
            (b"SCHILY.xattr.user.k", b"v\0=\nw"),
            (b"SCHILY.xattr.user.empty", b""),
            (b"comment", b"ignored"),
        ),
        tar.f(b"short", b"abc", size=0),
        tar.f(b"after"),
    )
    assert (entry.name, entry.uid, entry.gid, entry.size, data) == (b"long", 3_000_000_000, 4, 3, b"abc")
    assert entry.mtime_ns == 1_250_000_000
    assert entry.xattrs == {b"user.k": b"v\0=\nw", b"user.empty": b""}
    assert (after.name, after.xattrs) == (b"after", {})


def test_a_pax_size_hides_what_looks_like_a_header_in_the_data(tar: Any) -> None:
    smuggled = tar.f(b"smuggled", b"x")
    (entry, data), (after, _) = read(
        tar.x((b"size", b"%d" % len(smuggled))), tar.header(b"f") + smuggled, tar.f(b"after")
    )
    assert (entry.size, data, after.name) == (len(smuggled), smuggled, b"after")


def test_an_empty_pax_value_is_none_and_the_last_of_two_wins(tar: Any) -> None:
    assert names(
        tar.x((b"path", b"")),
        tar.f(b"own"),
        tar.x((b"path", b"one"), (b"path", b"two")),
        tar.f(b"own"),
        tar.x((b"path", b"one"), (b"path", b"")),
        tar.f(b"own"),
    ) == [b"own", b"two", b"own"]


def test_global_headers_change_nothing(tar: Any) -> None:
    every = tar.g((b"path", b"../x"), (b"size", b"512"), (b"linkpath", b"/v"), (b"uid", b"9"), (b"comment", b"c"))
    (entry,) = entries(every, tar.f(b"safe"))
    assert (entry.name, entry.size, entry.linkname, entry.uid) == (b"safe", 0, b"", 0)


@pytest.mark.parametrize(
    "data",
    [
        b"0 path=x\n",
        b"00 path=x\n",
        b"4 a\n",
        b"3 \n",
        b"2 ",
        b"99 path=x\n",
        b"8 path=x\n",
        b"9 path=xy",
        b"path=x\n",
        b"-9 path=x\n",
        b"+9 path=x\n",
        b" 9 path=x\n",
        "\u0669 path=x\n".encode(),
        b"10 path=a\0\n",
        b"6 =xy\n",
        b"9 pathxx\n",
        b"8 a\0b=c\n",
        b"9 path=x\n\0\0",
        b"9999999999999 path=x\n",
    ],
)
def test_a_malformed_pax_record_is_an_error(tar: Any, data: bytes) -> None:
    refused(tar.raw_x(data), tar.f(b"f"))
    refused(tar.raw_x(data, b"g"), tar.f(b"f"))


@pytest.mark.parametrize("size", [b"-512", b"abc", b"9" * 30, b"9" * 5000, b"1e3", b" 1", b"1_0", b"0x1", b"+1"])
def test_a_bad_pax_size_is_an_error(tar: Any, size: bytes) -> None:
    refused(tar.x((b"size", size)), tar.f(b"f"))
    refused(tar.x((b"uid", size)), tar.f(b"f"))


@pytest.mark.parametrize(
    "field",
    [b"00000000009\0", b"-0000000001\0", b"0000000_001\0", b"+0000000001\0", b"1 1        \0", b"0o000000001\0"],
)
def test_a_number_is_octal_or_an_error(tar: Any, field: bytes) -> None:
    refused(tar.header(b"f", raw={124: field}))
    refused(tar.header(b"f", raw={136: field}))


def test_numbers_may_be_padded_with_spaces_or_absent(tar: Any) -> None:
    (entry, data), (absent, _) = read(
        tar.header(b"f", raw={124: b"         5 \0", 100: b"   644 \0"}) + tar.pad(b"hello"),
        tar.header(b"g", raw={100: bytes(48)}),
    )
    assert (entry.mode, data, absent.mode, absent.mtime_ns) == (0o644, b"hello", 0, 0)


def test_base_256_numbers(tar: Any) -> None:
    (entry,) = entries(tar.f(b"f", uid=2**31, gid=2**32, mtime=-5))
    assert (entry.uid, entry.gid, entry.mtime_ns) == (2**31, 2**32, -5 * 10**9)
    refused(tar.header(b"f", size=-512))
    refused(tar.header(b"f", size=2**63))
    refused(tar.header(b"f", raw={124: b"\xc0" + bytes(11)}))


@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_what_has_no_data_has_size_0_whatever_its_header_says(tar: Any, flag: bytes) -> None:
    first, second = entries(tar.header(b"n", flag, size=512, link=b"t"), tar.f(b"next"))
    assert (first.size, second.name) == (0, b"next")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"1.", 1_000_000_000),
        (b"1.1234567899", 1_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000001", -1),
    ],
)
def test_pax_times_keep_their_nanoseconds(text: bytes, nanoseconds: int) -> None:
    assert parse_time(text, b"") == nanoseconds


@pytest.mark.parametrize("text", [b"-1", b"9" * 6000, b"9223372036854775808", b"-9999999999999"])
def test_times_out_of_range_are_clamped(tar: Any, text: bytes) -> None:
    (entry,) = entries(tar.x((b"mtime", text)), tar.f(b"f"))
    assert -(2**31) * 10**9 <= entry.mtime_ns <= 2**63 - 1
    assert entries(tar.f(b"f", mtime=2**70))[0].mtime_ns == 2**63 - 1


@pytest.mark.parametrize("text", [b"nan", b"inf", b"1e300", b".", b"", b"1.2.3", b"--1"])
def test_times_that_are_no_times_are_errors_or_absent(tar: Any, text: bytes) -> None:
    pieces = (tar.x((b"mtime", text)), tar.f(b"f", mtime=7))
    if text:
        refused(*pieces)
    else:
        assert entries(*pieces)[0].mtime_ns == 7 * 10**9


def test_checksums_are_checked_and_signed_ones_accepted(tar: Any) -> None:
    block = tar.header(b"caf\xe9")
    plain = block[:148] + b" " * 8 + block[156:]
    assert names(tar.header(b"caf\xe9", checksum=sum(plain) - 256)) == [b"caf\xe9"]
    assert refused(tar.f(b"first"), tar.header(b"f", checksum=1)).entry == b"first"
    refused(tar.f(b"first"), b"\x01" * 512)
    refused(tar.header(b"f", checksum=sum(tar.header(b"f")[:148]) + 65521))


def test_the_end_of_the_archive(tar: Any) -> None:
    one, two = tar.f(b"one", b"1"), tar.f(b"two")
    zero = bytes(512)
    assert names(one, end=b"") == [b"one"]
    assert names(one, end=zero) == [b"one"]
    assert names(tar.header(b"f", size=3) + b"abc", end=b"") == [b"f"]
    assert names(one, zero, zero, two, b"junk") == [b"one"]
    assert names(end=b"") == []
    refused(one, zero, two)
    refused(one, zero, b"junk", end=b"")


def test_everything_after_the_end_is_read(tar: Any) -> None:
    stream = io.BytesIO(tar.f(b"f") + bytes(1024) + b"trailing" * 100_000)
    assert len(list(TarReader(stream))) == 1
    assert stream.read() == b""


def test_a_cut_anywhere_but_between_entries_is_an_error(tar: Any) -> None:
    whole = tar.f(b"first", b"x" * 600) + tar.x((b"path", b"second")) + tar.f(b"_", b"y" * 512)
    fine = {0, *range(512 + 600, 512 + 1024 + 1), len(whole)}
    for length in range(0, len(whole), 7):
        if length not in fine:
            refused(whole[:length], end=b"")
    for length in fine:
        read(whole[:length], end=b"")


@pytest.mark.parametrize("flag", [b"x", b"g", b"L", b"K"])
def test_extended_headers_are_bounded_and_not_repeated(tar: Any, flag: bytes) -> None:
    assert "1048577" in str(refused(tar.header(b"h", flag, size=MAX_HEADER + 1)))
    refused(tar.header(b"h", flag, size=2**30))
    refused(tar.header(b"h", flag, size=-1))
    if flag != b"g":
        once = tar.raw_x(b"9 path=x\n", flag)
        refused(once, once, tar.f(b"f"))
        refused(once)
    else:
        assert names(tar.raw_x(b"9 path=x\n", flag) * 2) == []


def test_a_nul_in_a_long_name_is_an_error(tar: Any) -> None:
    refused(tar.long(b"a\0b"), tar.f(b"f"))


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 5000])
def test_short_reads_make_no_difference(tar: Any, step: int) -> None:
    pieces = (
        tar.long(b"n" * 200)
        + tar.f(b"_", b"data" * 200)
        + tar.x((b"path", b"p"))
        + tar.f(b"_", b"x")
        + bytes(1024)
    )
    reader = TarReader(tar.Chopped(pieces, step))
    assert [(e.name, b"".join(reader.data())) for e in reader] == [(b"n" * 200, b"data" * 200), (b"p", b"x")]


def test_unread_data_is_skipped_and_a_stale_iterator_stops(tar: Any) -> None:
    reader = TarReader(io.BytesIO(tar.f(b"a", b"x" * 1_000_000) + tar.f(b"b", b"yes") + bytes(1024)))
    next(reader)
    old = reader.data()
    assert len(next(old)) <= CHUNK
    assert next(reader).name == b"b"
    assert list(old) == []
    assert b"".join(reader.data()) == b"yes"


def test_memory_does_not_grow_with_the_file(tar: Any) -> None:
    block = bytes(2**20)
    source = io.BytesIO(tar.header(b"big", size=32 * 2**20) + block * 32 + bytes(1024))
    tracemalloc.start()
    try:
        for _entry in (reader := TarReader(source)):
            for piece in reader.data():
                assert len(piece) <= CHUNK
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


# sparse files


def old_gnu(tar: Any, regions: list[tuple[int, int]], length: int, data: bytes, more: bytes = b"") -> bytes:
    table = b"".join(tar.number(at, 12) + tar.number(size, 12) for at, size in regions)
    raw = {386: table, 482: b"\1" if more else b"\0", 483: tar.number(length, 12)}
    head: bytes = tar.header(b"sparse", b"S", size=len(data), magic=b"ustar  \0", raw=raw)
    return head + more + bytes(tar.pad(data))


def test_old_gnu_sparse(tar: Any) -> None:
    more = b"".join(tar.number(at, 12) + tar.number(1, 12) for at in range(100, 121)).ljust(504, b"\0") + bytes(8)
    ((entry, data),) = read(old_gnu(tar, [(0, 1), (10, 1), (20, 1), (30, 1)], 5000, b"z" * 25, more))
    assert (entry.type, entry.size, data) == (EntryType.FILE, 5000, b"z" * 25)
    assert entry.sparse == ((0, 1), (10, 1), (20, 1), (30, 1), *((at, 1) for at in range(100, 121)))


@pytest.mark.parametrize(
    ("regions", "length"),
    [
        ([(0, 2)], 100),
        ([(0, 2), (1, 1)], 100),
        ([(5, 1), (0, 2)], 100),
        ([(0, 3)], 2),
        ([(-5, 3)], 100),
        ([(0, -3)], 100),
        ([(2**62, 3)], 2**64),
        ([(0, 3)], -1),
        ([(2**63, 3)], 2**63),
    ],
)
def test_a_wrong_sparse_map_is_an_error(tar: Any, regions: list[tuple[int, int]], length: int) -> None:
    assert refused(old_gnu(tar, regions, length, b"abc")).entry == b"sparse"


def test_pax_sparse_0_0_and_0_1(tar: Any) -> None:
    zero = tar.x(
        (b"GNU.sparse.size", b"100"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.offset", b"0"),
        (b"GNU.sparse.numbytes", b"1"),
        (b"GNU.sparse.offset", b"50"),
        (b"GNU.sparse.numbytes", b"2"),
    )
    one = tar.x(
        (b"GNU.sparse.size", b"100"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.map", b"0,1,50,2"),
        (b"GNU.sparse.name", b"real"),
    )
    (a, _), (b, data) = read(zero, tar.f(b"n", b"abc"), one, tar.f(b"GNUSparseFile.0/n", b"abc"))
    assert a.sparse == b.sparse == ((0, 1), (50, 2))
    assert (a.name, b.name, a.size, b.size, data) == (b"n", b"real", 100, 100, b"abc")


def sparse_1_0(tar: Any, text: bytes, data: bytes, real: bytes = b"100", kind: bytes = b"0") -> bytes:
    pax: bytes = tar.x(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"real"),
        (b"GNU.sparse.realsize", real),
    )
    return pax + bytes(tar.f(b"n", tar.pad(text) + data, flag=kind))


def test_pax_sparse_1_0(tar: Any) -> None:
    many = [(at * 3, 1) for at in range(300)]
    text = b"300\n" + b"".join(b"%d\n%d\n" % pair for pair in many)
    ((entry, data), (after, _)) = read(sparse_1_0(tar, text, b"y" * 300, b"5000"), tar.f(b"after"))
    assert (entry.name, entry.size, entry.sparse) == (b"real", 5000, tuple(many))
    assert (data, after.name) == (b"y" * 300, b"after")


@pytest.mark.parametrize(
    "text",
    [b"", b"x\n", b"1\n0\n", b"1\n0\nx\n", b"1\n0\n4\n", b"-1\n", b"99999999\n0\n1\n", b"1" * 600, b"1\n0\n9\n"],
)
def test_a_wrong_sparse_1_0_map_is_an_error(tar: Any, text: bytes) -> None:
    refused(sparse_1_0(tar, text, b"abc"))


def test_sparse_bombs_are_refused_early(tar: Any) -> None:
    refused(sparse_1_0(tar, b"10000000\n" + b"0\n1\n" * 1000, b""))
    refused(sparse_1_0(tar, b"60000\n" + b"1" * (2 * MAX_HEADER), b""))
    refused(sparse_1_0(tar, b"1\n0\n3\n", b"abc", real=b"2"))
    refused(sparse_1_0(tar, b"1\n0\n3\n", b"abc", kind=b"5"))
    refused(tar.x((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")), tar.f(b"f"))


# against writers that others made


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_the_standard_library_writes_is_read(form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        info = tarfile.TarInfo("dir/" * 20 + "file")
        info.size, info.uid, info.mtime, info.mode = 5, 70000, 1234567890, 0o640
        archive.addfile(info, io.BytesIO(b"hello"))
    ((entry, data),) = read(out.getvalue(), end=b"")
    assert (entry.name, entry.uid, entry.mtime_ns, entry.mode, data) == (
        b"dir/" * 20 + b"file",
        70000,
        1234567890 * 10**9,
        0o640,
        b"hello",
    )


@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(b"hello")
    os.symlink("file", tmp_path / "d" / "link")
    out = subprocess.run(
        ["tar", "-c", f"--format={form}", "--sort=name", "-C", tmp_path, "d"], stdout=subprocess.PIPE, check=True
    ).stdout
    found = [(e.name, e.type, data) for e, data in read(out, end=b"")]
    assert found == [
        (b"d/", EntryType.DIR, b""),
        (b"d/file", EntryType.FILE, b"hello"),
        (b"d/link", EntryType.SYMLINK, b""),
    ]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_give_entries_or_a_bad_layer(data: bytes) -> None:
    with contextlib.suppress(BadLayer):
        read(data, end=b"")
