"""What containers print and read: complete, in order, apart, and in bounded memory."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from pathlib import Path

import pytest
import trio
from stage import IMAGE, Stage, output, printed

import lading
from lading.storage.outputcursor import OutputCursor

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def done(engine: lading.Engine, script: str) -> lading.Container:
    """A container that ran ``script`` to its end."""
    made = await engine.containers.create(IMAGE, ["sh", "-c", script])
    await made.start()
    assert await made.wait() == 0
    return made


async def lines(made: lading.Container, **options: object) -> list[str]:
    return (await output(made, **options)).decode().splitlines()


async def test_standard_input_goes_in_and_ends(stage: Stage) -> None:
    async with stage.engine() as engine:
        data = os.urandom(300_000)
        got = await engine.containers.run(IMAGE, ["cat"], stdin=data)
        assert got.stdout == data
        got = await engine.containers.run(IMAGE, ["cat"], stdin=b"")
        assert (got.exit_code, got.stdout) == (0, b"")
        got = await engine.containers.run(IMAGE, ["head", "-c", "5"], stdin=data)  # reads only some of it
        assert (got.exit_code, got.stdout) == (0, data[:5])
        got = await engine.containers.run(IMAGE, ["wc", "-c"])  # none was given: it is at its end at once
        assert got.stdout == b"0\n"


async def test_every_byte_comes_through(stage: Stage) -> None:
    async with stage.engine() as engine:
        data = bytes(range(256)) * 10 + b"\xff\xfe\r\n\0\x1b[31m" + b"no newline at the end"
        got = await engine.containers.run(IMAGE, ["cat"], stdin=data)
        assert got.stdout == data


async def test_standard_error_is_kept_apart(stage: Stage) -> None:
    script = "for n in 1 2 3; do echo out$n; echo err$n >&2; done"
    async with stage.emptied() as engine:
        made = await done(engine, script)
        assert await lines(made, stderr=False) == ["out1", "out2", "out3"]
        assert await lines(made, stdout=False) == ["err1", "err2", "err3"]
        assert sorted(await lines(made)) == ["err1", "err2", "err3", "out1", "out2", "out3"]
        with made.logs() as reader:
            assert {(piece.stream, piece.data[:3]) async for piece in reader} == {(1, b"out"), (2, b"err")}


@pytest.mark.parametrize("count", [0, 1, 10, 199, 200, 500])
async def test_the_tail_is_the_last_lines(stage: Stage, count: int) -> None:
    async with stage.emptied() as engine:
        made = await done(engine, "seq 1 200; printf 'the last has no end'")
        everything = [*map(str, range(1, 201)), "the last has no end"]
        assert await lines(made) == everything
        assert await lines(made, tail=count) == everything[len(everything) - min(count, 201) :]
        assert await lines(made, tail=count, stderr=False) == everything[len(everything) - min(count, 201) :]
        assert await lines(made, tail=count, stdout=False) == []


async def test_since_and_until_bound_by_time(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(
            IMAGE, ["sh", "-c", "echo before; read x; echo after"], open_stdin=True
        )
        await made.start()
        await printed(made, b"before")
        between = time.time_ns()
        async with await engine.core.link.open_stdin(made.id) as stream:
            await stream.send_all(b"go\n")
        await made.wait()
        assert await lines(made, since=between) == ["after"]
        assert await lines(made, until=between) == ["before"]
        assert await lines(made, since=time.time_ns()) == []
        with made.logs() as reader:
            times = [piece.time async for piece in reader]
        assert times == sorted(times)
        assert times[0] < between < times[1]


async def test_following_gives_each_line_as_it_comes_and_ends_with_the_run(stage: Stage) -> None:
    script = "while read line; do echo got $line; done"
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", script], open_stdin=True, stdin_once=True)
        await made.start()
        with made.logs(follow=True) as reader:
            async with await engine.core.link.open_stdin(made.id) as stream:
                for number in range(20):
                    await stream.send_all(b"%d\n" % number)
                    with trio.fail_after(5):
                        piece = await reader.__anext__()
                    assert piece.data == b"got %d\n" % number
                await stream.end()
            with trio.fail_after(5), pytest.raises(StopAsyncIteration):  # its input has ended, and so has it
                await reader.__anext__()
        assert await made.wait() == 0


async def test_ten_followers_see_the_same(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", "seq 1 2000; sleep 0.1; seq 2001 4000"])
        seen: list[list[str]] = []

        async def follow() -> None:
            seen.append(await lines(made, follow=True))

        await made.start()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(follow)
        assert seen == [[str(number) for number in range(1, 4001)]] * 10


async def test_a_reader_outlives_the_container(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await done(engine, "seq 1 1000")
        with made.logs() as reader:
            first = await reader.__anext__()
            await made.remove()
            rest = [piece.data async for piece in reader]
        assert b"".join([first.data, *rest]).split() == [b"%d" % number for number in range(1, 1001)]


async def test_what_is_printed_can_forge_nothing(stage: Stage) -> None:
    """Bytes that look like a frame of the output file are only bytes."""
    async with stage.emptied() as engine:
        made = await done(engine, "echo real")
        frame = (stage.paths.container(made.id) / "output").read_bytes()
        got = await engine.containers.run(IMAGE, ["cat"], stdin=frame * 3, remove=False)
        assert (got.stdout, got.stderr) == (frame * 3, b"")


async def test_damage_at_the_end_is_passed_over(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await done(engine, "echo one; echo two >&2")
        path = stage.paths.container(made.id) / "output"
        with path.open("ab") as file:
            file.write(b"\xb1\x01\x00\x00\xff")
        assert sorted(await lines(made)) == ["one", "two"]


async def test_a_run_whose_output_takes_long_to_read_still_returns(stage: Stage) -> None:
    """The container's removal may be over before its output is read: nobody waits for it a second time."""
    async with stage.engine() as engine:
        for _ in range(3):
            with trio.fail_after(20):
                got = await engine.containers.run(IMAGE, ["head", "-c", "12000000", "/dev/zero"])
            assert len(got.stdout) == 12_000_000


async def test_many_short_lines_hold_nobody_up(stage: Stage) -> None:
    """While a megabyte of two-byte lines is read, other tasks go on."""
    pauses: list[float] = []
    async with stage.emptied() as engine:
        made = await done(engine, "yes | head -c 1000000")

        async def tick() -> None:
            while True:
                before = trio.current_time()
                await trio.sleep(0.01)
                pauses.append(trio.current_time() - before)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await trio.sleep(0.02)
            assert await output(made) == b"y\n" * 500_000
            await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    assert max(pauses) < 0.5


@pytest.mark.long
async def test_fifty_megabytes_are_complete_and_memory_stays_flat(stage: Stage) -> None:
    size = 50_000_000
    script = f"yes 0123456789abcdef | head -c {size}"
    async with stage.emptied(timeout=120) as engine:
        await engine.containers.run(IMAGE, ["true"])
        keeper = engine.core.link.keeper_pid
        before, theirs = peak(), int(_field(keeper, "VmHWM"))
        made = await engine.containers.create(IMAGE, ["sh", "-c", script])
        await made.start()
        digest, total = hashlib.sha256(), 0
        with made.logs(follow=True) as reader:
            async for piece in reader:
                digest.update(piece.data)
                total += len(piece.data)
        assert total == size
        grown = peak() - before
        line = b"0123456789abcdef\n"
        assert digest.digest() == hashlib.sha256((line * (size // len(line) + 1))[:size]).digest()
        assert grown < 20_000_000
        assert int(_field(keeper, "VmHWM")) - theirs < 8_000  # kB
        assert len(await lines(made, tail=200)) == 200


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _field(pid: int, name: str) -> str:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in status if line.startswith(name + ":")).split()[1]


async def test_output_without_a_reader_is_all_there(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await done(engine, "head -c 3000000 /dev/zero")
        fd = os.open(stage.paths.container(made.id), os.O_RDONLY)
        cursor, total = OutputCursor(fd), 0
        try:
            while chunks := cursor.read():
                total += sum(len(chunk.data) for chunk in chunks)
        finally:
            cursor.close()
            os.close(fd)
        assert total == 3_000_000
