"""Rotation: who keeps up loses and doubles no byte, who doesn't is told, and a crash at any step leaves order."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import joined, printed, reading, rest, writing

from lading.storage.output import BLOCK_HEAD, OVERHEAD, Chunk
from lading.storage.outputcursor import AHEAD, OutputCursor
from lading.storage.outputfiles import copy_output, is_output_name, open_kept


def line(number: int) -> bytes:
    return b"line %06d\n" % number


def numbers(data: bytes) -> list[int]:
    """What lines there are, each whole."""
    found = data.split(b"\n")
    assert found.pop() == b""
    assert all(len(word) == 11 and word.startswith(b"line ") for word in found)
    return [int(word[5:]) for word in found]


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory), key=lambda name: (len(name), name))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_as_many_files_as_asked_for_are_kept_and_none_is_larger(tmp_path: Path, count: int) -> None:
    with writing(tmp_path, 1000, count) as writer:
        for number in range(1000):
            writer.write(1, number, line(number))
            assert len(os.listdir(tmp_path)) <= max(count, 1)
    assert files(tmp_path) == ["output", *(f"output.{number}" for number in range(1, count))]
    assert all((tmp_path / name).stat().st_size <= 1000 for name in files(tmp_path))
    kept = numbers(joined(printed(tmp_path)))
    assert kept == list(range(kept[0], 1000))
    each = (1000 - BLOCK_HEAD) // (OVERHEAD + 12)
    assert each * (count - 1) < len(kept) <= each * max(count, 1)


@pytest.mark.parametrize("size", [1, 100, 1000, 70_000])
def test_what_is_larger_than_a_file_goes_to_several(tmp_path: Path, size: int) -> None:
    """In pieces that end with lines where there are any."""
    text = b"".join(line(number) for number in range(3000))
    with writing(tmp_path, size, 100) as writer:
        writer.write(1, 1, b"first\n")
        writer.write(1, 2, text)
    assert max((tmp_path / name).stat().st_size for name in files(tmp_path)) <= max(
        size, 512 + BLOCK_HEAD + OVERHEAD
    )
    got = joined(printed(tmp_path))
    assert text.endswith(got) or got == b"first\n" + text
    assert len(numbers(got.removeprefix(b"first\n"))) > 0


@pytest.mark.slow
def test_a_reader_who_keeps_up_sees_every_byte_of_a_thousand_rotations(tmp_path: Path) -> None:
    """And so does one who is up to three files behind; none is told that anything is lost."""
    draw = random.Random(5)
    written, fast, slow = bytearray(), bytearray(), bytearray()
    rotations, inode = 0, 0
    with writing(tmp_path, 3000, 5) as writer, reading(tmp_path) as quick, reading(tmp_path) as behind:
        turn = 0
        while rotations < 1000:
            data = draw.randbytes(draw.randrange(1, 2500))
            writer.write(1 + turn % 2, turn, data)
            written += data
            turn += 1
            found = os.stat(tmp_path / "output").st_ino
            rotations, inode = rotations + (found != inode), found
            fast += collect(rest(quick))
            if turn % 6 == 0:
                slow += collect(rest(behind))
        slow += collect(rest(behind))
        assert quick.position == behind.position == writer.position
    assert fast == slow == written


def collect(chunks: list[Chunk]) -> bytes:
    assert not any(chunk.lost for chunk in chunks)
    return joined(chunks)


def test_a_reader_who_is_too_far_behind_is_told_so_once(tmp_path: Path) -> None:
    with writing(tmp_path, 1000, 3) as writer, reading(tmp_path) as cursor:
        for number in range(10):
            writer.write(1, number, line(number))
        first = rest(cursor)
        for number in range(10, 2000):
            writer.write(1, number, line(number))
        later = rest(cursor)
        writer.write(1, 2000, line(2000))
        later += rest(cursor)
    assert numbers(joined(first)) == list(range(10))
    found = numbers(joined(later))
    gap = next(at for at, chunk in enumerate(later) if chunk.lost)
    assert [chunk.lost for chunk in later].count(True) == 1
    assert found[:gap] == list(range(10, 10 + gap))  # the file that it had open is read to its end
    assert found[gap:] == list(range(found[gap], 2001))
    assert found[gap] > found[gap - 1] + 1


def test_a_reader_keeps_what_it_has_seen_when_everything_is_removed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with writing(own, 1000, AHEAD) as writer:
        for number in range(500):
            writer.write(1, number, line(number))
    with reading(own) as cursor:
        expected = numbers(joined(printed(own)))
        for name in os.listdir(own):
            (own / name).unlink()
        own.rmdir()
        assert numbers(joined(rest(cursor))) == expected


def test_a_reader_has_few_files_open_however_many_are_kept(tmp_path: Path) -> None:
    with writing(tmp_path, 300, 60) as writer:
        for number in range(2000):
            writer.write(1, number, line(number))
    assert len(os.listdir(tmp_path)) == 60
    before = len(os.listdir("/proc/self/fd"))
    with reading(tmp_path) as cursor:
        found = cursor.read()
        assert len(os.listdir("/proc/self/fd")) <= before + 1 + AHEAD
        found += rest(cursor)
    assert numbers(collect(found)) == numbers(joined(printed(tmp_path)))


def test_a_later_run_goes_on_where_the_one_before_it_ended(tmp_path: Path) -> None:
    with reading(tmp_path) as cursor:
        got = b""
        for run in range(40):
            with writing(tmp_path, 500, 4) as writer:
                for number in range(run * 7, run * 7 + 7):
                    writer.write(1, number, line(number))
                assert writer.position > cursor.position
            got += collect(rest(cursor))
    assert numbers(got) == list(range(280))


# -- crashes ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The keeper is killed at this call."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Nothing that changes files happens from the ``step``-th call on; gives the names of those that did."""
    done: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            if len(done) >= step:
                raise Killed
            done.append(name)
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "unlink", "open", "pwrite", "pwritev", "ftruncate"):
            patched.setattr(os, name, wrap(name, getattr(os, name)))
        yield done


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_keeper_killed_at_any_step_of_a_rotation_leaves_order(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers and who reads afterwards get every line once, in order; so they do when it happens again."""
    for step in range(40):
        own = tmp_path / str(step)
        own.mkdir()
        with reading(own) as cursor:
            written = got = b""
            for crash in range(4):
                with (
                    killed_at(step if crash < 3 else 1000, monkeypatch) as done,
                    writing(own, 300, count) as writer,
                ):
                    try:
                        for number in range(100):
                            name = line(crash * 100 + number)
                            writer.write(1, number, name)
                            written += name
                            got += collect(rest(cursor))
                    except Killed:
                        pass
                got += collect(rest(cursor))
                now = joined(printed(own))
                assert written.endswith(now)
                assert all(is_output_name(found) or found == "output.new" for found in os.listdir(own))
        assert got == written
        assert files(own) == ["output", *(f"output.{number}" for number in range(1, count))]
        each = (300 - BLOCK_HEAD) // (OVERHEAD + 12)
        assert len(numbers(joined(printed(own)))) > each * (count - 1)
    assert len(done) > step  # every step of several rotations was one to be killed at


def test_files_that_are_renamed_while_they_are_listed_are_not_missed(tmp_path: Path) -> None:
    """At every step of looking through them, somebody rotates."""
    for moment in range(5):
        own = tmp_path / str(moment)
        own.mkdir()
        with writing(own, 300, 5) as writer:
            for number in range(28):
                writer.write(1, number, line(number))
            fd = os.open(own, os.O_RDONLY)
            before = {os.stat(own / name).st_ino for name in os.listdir(own)}
            oldest = os.stat(own / "output.4").st_ino if (own / "output.4").exists() else 0
            seen = set()
            for at, file in enumerate(open_kept(fd)):
                seen.add(file.inode)
                file.close()
                if at == moment:
                    for number in range(28, 38):
                        writer.write(1, number, line(number))
            os.close(fd)
        assert before - {oldest} <= seen


# -- everything at once -------------------------------------------------------------------------------------

actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from((1, 2)), st.integers(1, 4000)),
        st.tuples(st.just("small"), st.sampled_from((1, 2)), st.integers(1, 30)),
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 5)),
        st.tuples(st.just("again"), st.just(0), st.just(0)),
        st.tuples(st.just("tear"), st.just(0), st.integers(1, 40)),
    ),
    max_size=60,
)


@pytest.mark.slow
@given(st.sampled_from((0, 1, 700, 2000, 9000)), st.integers(1, 4), actions)
@settings(max_examples=150)
def test_readers_get_what_a_list_of_bytes_would_give(
    tmp_path_factory: pytest.TempPathFactory, size: int, count: int, steps: list[tuple[str, int, int]]
) -> None:
    """Whatever is written, rotated and torn, and whenever they read: the next bytes, or a gap that is told."""
    own = tmp_path_factory.mktemp("own")
    draw = random.Random(size)
    whole = bytearray()
    directories = [os.open(own, os.O_RDONLY) for _ in range(3)]
    cursors = [OutputCursor(fd) for fd in directories]
    places = [0] * 3

    def take(number: int, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            if chunk.lost:
                places[number] = whole.index(chunk.data, places[number])
            assert whole[places[number] : places[number] + len(chunk.data)] == chunk.data
            places[number] += len(chunk.data)

    torn = False
    with writing(own, size, count) as first:
        writer = first
        for kind, who, amount in steps:
            match kind:
                case "write" | "small":
                    data = draw.randbytes(amount + 8)
                    writer.write(who, amount, data)
                    whole += data
                case "read":
                    for _ in range(amount):
                        take(who, cursors[who].read())
                case "again":
                    writer.close()
                    writer.__init__(os.fspath(own), size, count)  # type: ignore[misc]
                case "tear" if (own / "output").exists():
                    writer.close()
                    with (own / "output").open("ab") as file:
                        file.write(draw.randbytes(amount))
                    writer.__init__(os.fspath(own), size, count)  # type: ignore[misc]
                    torn = True
        for number, cursor in enumerate(cursors):
            take(number, rest(cursor))
            assert places[number] == len(whole)
    for cursor, fd in zip(cursors, directories, strict=True):
        cursor.close()
        os.close(fd)
    last = printed(own)
    assert whole.endswith(joined(last)) or torn
    if size == 0:
        assert joined(last) == whole
    copy = own / "copy"
    copy.mkdir()
    copy_output(own, copy)
    assert joined(printed(copy)) == joined(last)
