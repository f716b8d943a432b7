"""Rotated output of real containers: followed, damaged, and with its keeper killed; and lines of any length."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import trio
from stage import IMAGE, Stage, output

import lading
from lading.events.settings import ContainerSettings
from lading.storage.output import BLOCK

pytestmark = [pytest.mark.real, pytest.mark.slow]

BURSTS = """
line=0123456789012345678901234567890123456789012345678901234567890123456789012345678
i=100000
end=$((100000 + %d))
while [ $i -lt $end ]; do
  n=0
  while [ $n -lt 25 ]; do echo "$i $line"; i=$((i+1)); n=$((n+1)); done
  usleep 3000
done
"""


def rotating(size: int, files: int) -> ContainerSettings:
    return ContainerSettings(log_size=size, log_files=files)


def numbers(data: bytes) -> list[int]:
    """The numbers of lines that are all whole."""
    lines = data.splitlines()
    assert all(len(line) == 86 for line in lines)
    return [int(line[:6]) - 100_000 for line in lines]


def size_of(stage: Stage, made: lading.Container) -> int:
    own = stage.paths.container(made.id)
    return sum((own / name).stat().st_size for name in os.listdir(own) if name.startswith("output"))


@pytest.mark.long
async def test_a_follower_gets_every_line_while_files_are_rotated_a_thousand_times(stage: Stage) -> None:
    """A slow one gets them too, or is told once of each gap; and the disk holds no more than was allowed."""
    count, size, files = 25_000, 2200, 60
    async with stage.emptied(timeout=120) as engine:
        settings = rotating(size, files)
        made = await engine.containers.create(IMAGE, ["sh", "-c", BURSTS % count], settings=settings)
        fast: list[bytes] = []
        gaps: list[bool] = []
        slow: list[tuple[bytes, bool]] = []

        async def quick() -> None:
            with made.logs(follow=True) as reader:
                async for chunk in reader.chunks():
                    fast.append(chunk.data)
                    gaps.append(chunk.lost)

        async def sluggish() -> None:
            with made.logs(follow=True) as reader:
                async for chunk in reader.chunks():
                    slow.append((chunk.data, chunk.lost))
                    if len(slow) % 20 == 0:
                        await trio.sleep(0.2)

        await made.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quick)
            nursery.start_soon(sluggish)
        assert await made.wait() == 0
        assert size_of(stage, made) <= size * files
        assert numbers(b"".join(fast)) == list(range(count))
        assert not any(gaps)
        parts: list[bytes] = []
        for data, lost in slow:
            parts.append(b"" if lost or not parts else parts.pop())
            parts[-1] += data
        seen = [each for part in parts for each in numbers(part)]
        assert seen == sorted(set(seen))
        assert len(parts) == 1 + sum(after - before > 1 for before, after in itertools.pairwise(seen))
        assert seen[-1] == count - 1
        kept = numbers(await output(made))
        assert kept == list(range(kept[0], count))
        assert (files - 1) * 22 <= len(kept) <= files * 25  # 87 bytes each, besides a few headers
        assert numbers(await output(made, tail=100)) == list(range(count - 100, count))


async def test_a_run_returns_all_that_is_kept_and_says_if_it_is_not_all(stage: Stage) -> None:
    async with stage.engine() as engine:
        script = ["sh", "-c", "seq 100000 100999"]
        got = await engine.containers.run(IMAGE, script, settings=rotating(2000, 6))
        assert got.stdout == b"".join(b"%d\n" % number for number in range(100_000, 101_000))
        assert not got.truncated
        got = await engine.containers.run(IMAGE, script, settings=rotating(2000, 2))
        assert got.stdout.endswith(b"100999\n")
        assert len(got.stdout) < 7000
        assert got.truncated


@pytest.mark.long
async def test_what_was_printed_before_the_keeper_was_killed_is_there_and_more_comes(stage: Stage) -> None:
    async with stage.emptied(timeout=90) as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", BURSTS % 10_000_000], settings=rotating(9000, 4))
        for _ in range(3):
            await made.start()
            with made.logs(follow=True, tail=0) as reader:
                lines = 0
                async for piece in reader:
                    lines += piece.data.endswith(b"\n")
                    if lines == 3000:
                        break
            os.kill(engine.core.link.keeper_pid, signal.SIGKILL)
            await made.wait()
            got = numbers(await output(made))
            assert len(got) > 200
            assert sum(after - before != 1 for before, after in itertools.pairwise(got)) <= 1
        assert size_of(stage, made) <= 36_000


async def test_what_is_after_damage_is_read_and_followed(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", "seq 100000 199999"])
        await made.start()
        await made.wait()
        path = stage.paths.container(made.id) / "output"
        assert path.stat().st_size > 2 * BLOCK
        with path.open("r+b") as file:
            file.seek(BLOCK + 30)
            file.write(b"\0" * 8)
        with made.logs() as reader:
            pieces = [piece async for piece in reader]
        assert [piece.lost for piece in pieces].count(True) == 1
        assert pieces[0].data == b"100000\n"
        assert pieces[-1].data == b"199999\n"
        assert 600_000 > sum(len(piece.data) for piece in pieces) > 700_000 - BLOCK - 20_000
        await made.start()  # the next run goes on in the same file
        await made.wait()
        assert (await output(made, tail=100_000)).startswith(b"100000\n")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keeper_peak(engine: lading.Engine) -> int:
    status = Path(f"/proc/{engine.core.link.keeper_pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1])


@pytest.mark.long
async def test_a_line_of_a_hundred_megabytes_costs_little_memory(stage: Stage) -> None:
    """For whoever writes and whoever reads, in pieces, and in lines that have a limit."""
    size = 100_000_000
    async with stage.emptied(timeout=120) as engine:
        await engine.containers.run(IMAGE, ["true"])
        before, theirs = peak(), keeper_peak(engine)
        script = f"head -c {size} /dev/zero; echo; printf '\\377\\0second\\n'"
        made = await engine.containers.create(IMAGE, ["sh", "-c", script])
        await made.start()
        with made.logs(follow=True) as reader:
            pieces = [(len(piece.data), piece.starts) async for piece in reader]
        assert sum(length for length, _ in pieces) == size + 1 + 9
        assert [starts for _, starts in pieces].count(True) == 2
        with made.logs() as reader:
            lines = [(len(line.data), line.starts, line.more) async for line in reader.lines(limit=50_000)]
        whole, rest = divmod(size + 1, 50_000)
        assert lines[0] == (50_000, True, True)
        assert lines[1:whole] == [(50_000, False, True)] * (whole - 1)
        assert lines[whole:] == [(rest, False, False), (9, True, False)]
        with made.logs(tail=1) as reader:
            assert [piece.data async for piece in reader] == [b"\xff\0second\n"]
        assert peak() - before < 20_000  # kB
        assert keeper_peak(engine) - theirs < 8_000


async def test_lines_are_whole_and_bounded(stage: Stage) -> None:
    script = (
        "printf 'a'; sleep 0.1; printf 'b\\n' ; printf 'err' >&2; sleep 0.1; printf '12345678\\n'; printf 'end'"
    )
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", script])
        await made.start()
        with made.logs(follow=True) as reader:
            lines = [(line.stream, line.data, line.more) async for line in reader.lines()]
        assert lines == [(1, b"ab\n", False), (1, b"12345678\n", False), (2, b"err", False), (1, b"end", False)]
        with made.logs(stderr=False) as reader:
            some = [(line.data, line.starts, line.more) async for line in reader.lines(limit=4)]
        assert some[0] == (b"ab\n", True, False)
        assert some[1:4] == [(b"1234", True, True), (b"5678", False, True), (b"\n", False, False)]
        assert some[4:] == [(b"end", True, False)]


@pytest.mark.long
@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_an_answer_does_not_wait_for_more(stage: Stage, pause: float) -> None:
    """Output gathers only while there is much of it that nobody waits for."""
    async with stage.emptied() as engine:
        script = "while read line; do echo $line; done"
        made = await engine.containers.create(IMAGE, ["sh", "-c", script], open_stdin=True, stdin_once=True)
        await made.start()
        took = []
        with made.logs(follow=True) as reader:
            async with await engine.core.link.open_stdin(made.id) as stream:
                for number in range(40):
                    await trio.sleep(pause)
                    began = time.perf_counter()
                    await stream.send_all(b"%d\n" % number)
                    with trio.fail_after(5):
                        await reader.__anext__()
                    took.append(time.perf_counter() - began)
                await stream.end()
        assert sorted(took)[10] < 0.015  # less than it would gather otherwise, on a machine that has more to do
        await made.wait()
