"""Commands in running containers, with a real runtime: what callers get, what the log says, what is left."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from stage import IMAGE, Stage, happens, printed, records

import lading
from lading.engine.core import new_caller
from lading.events.container import Exited
from lading.events.envelope import Record
from lading.events.errors import Invalid, NotFound, WrongPhase
from lading.events.execs import ExecCreated, ExecExited, ExecRequested, ExecSpec, exec_stream
from lading.events.views import EXECS
from lading.storage.cgroups import processes_in
from lading.storage.procfs import start_ticks

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ("sleep", "1000")


@pytest.fixture(params=["crun", "runc"])
async def engine(stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[lading.Engine]:
    async with stage.emptied(runtime=request.param) as engine:
        yield engine


@pytest.fixture
async def one(engine: lading.Engine) -> lading.Container:
    return await started(engine)


async def started(engine: lading.Engine, *command: str, **options: object) -> lading.Container:
    container = await engine.containers.create(IMAGE, command or FOREVER, **options)
    await container.start()
    return container


def outcome(engine: lading.Engine, exec_id: str) -> list[object]:
    return [record.event for record in engine.log.read_stream(exec_stream(exec_id))]


def alive(cgroup: str) -> set[int]:
    """The processes there, without those that are dead and that their parent has not noticed."""
    return {pid for pid in processes_in(cgroup) if start_ticks(pid)}


def capabilities_of(pid: int) -> str:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("CapPrm")]
    return line.split()[1]


def everything(engine: lading.Engine) -> list[Record]:
    return engine.core.log.read(0, 10**6)


def execs_of(engine: lading.Engine) -> list[object]:
    return [record.event for record in everything(engine) if record.stream.startswith("exec/")]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 1"), 1),
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "exit 126"), 126),
        (("sh", "-c", "exit 127"), 127),
        (("sh", "-c", "exit 255"), 255),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("sh", "-c", "kill -SEGV $$"), 139),
    ],
)
async def test_the_exit_code_is_the_commands_own(
    one: lading.Container, engine: lading.Engine, command: tuple[str, ...], code: int
) -> None:
    done = await one.exec(command)
    assert (done.exit_code, done.why, done.timed_out, done.truncated) == (code, "", False, False)
    created, requested, exited = outcome(engine, done.exec)
    assert isinstance(created, ExecCreated)
    assert (created.container, created.run, created.spec.args) == (one.id, 1, command)
    assert (requested, exited) == (ExecRequested(), ExecExited(code))
    assert engine.core.log.scan(EXECS) == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("nosuch", 127, "executable file not found"),
        ("/no/such", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
        ("/usr/bin/bad-format", 126, "exec format error"),
        ("/usr/bin/bad-interpreter", 127, "no such file or directory"),
    ],
)
async def test_what_can_not_be_executed_is_126_or_127_with_the_runtimes_words(
    one: lading.Container, engine: lading.Engine, command: str, code: int, said: str
) -> None:
    done = await one.exec([command])
    assert (done.exit_code, done.stdout, done.stderr) == (code, b"", b"")
    assert said in done.why.lower()
    assert outcome(engine, done.exec)[-1] == ExecExited(code, done.why)


async def test_streams_stay_apart(one: lading.Container) -> None:
    done = await one.exec(["sh", "-c", "echo out; echo err >&2; printf '\\0\\377'"])
    assert (done.stdout, done.stderr) == (b"out\n\0\xff", b"err\n")


async def test_ten_megabytes_go_in_and_come_out_whole(one: lading.Container) -> None:
    data = os.urandom(10_000_000)
    done = await one.exec(["cat"], stdin=data)
    assert (done.exit_code, done.stdout == data, done.truncated) == (0, True, False)


async def test_input_that_nobody_reads_is_no_error(one: lading.Container) -> None:
    done = await one.exec(["true"], stdin=bytes(1_000_000))
    assert done.exit_code == 0
    assert (await one.exec(["cat"])).stdout == b"", "without input there is an empty one"


async def test_what_is_over_the_limit_is_dropped_and_the_command_goes_on(one: lading.Container) -> None:
    done = await one.exec(["sh", "-c", "yes | head -c 1000000; exit 3"], capture=10)
    assert (done.exit_code, done.stdout, done.truncated) == (3, b"y\n" * 5, True)
    done = await one.exec(["sh", "-c", "printf 12345"], capture=5)
    assert (done.stdout, done.truncated) == (b"12345", False)


async def test_environment_directory_and_user_are_the_containers_unless_asked(engine: lading.Engine) -> None:
    one = await started(engine, env=["A=1", "B=2"], working_dir="/tmp", user="app")
    script = "echo $A-$B-$C $(pwd) $(id -u):$(id -g) $(id -G | tr ' ' '\\n' | sort | tr '\\n' ,) $HOME"
    shown = await one.exec(["sh", "-c", script], env=["B=two", "C=3"])
    assert shown.stdout == b"1-two-3 /tmp 1000:1000 1000,29,50, /home/app\n"
    shown = await one.exec(["sh", "-c", script], env=["A"], user="root", working_dir="/etc")
    assert shown.stdout == b"-2- /etc 0:0 0, /root\n"
    shown = await one.exec(["sh", "-c", "id -u; id -g; echo $HOME"], user="7:50")
    assert shown.stdout == b"7\n50\n/\n"


@pytest.mark.parametrize("user", ["nobody-here", "4294967296", "-1", "1_000", "0x0", "٣", " 0"])
async def test_a_user_that_is_none_is_refused(one: lading.Container, engine: lading.Engine, user: str) -> None:
    with pytest.raises(Invalid):
        await one.exec(["id"], user=user)
    assert engine.core.log.scan(EXECS) == []


@pytest.mark.parametrize("where", ["/proc/self/fd/9", "/proc/self/fd", "/sys", "relative", "/tmp/../proc/1"])
async def test_a_directory_that_may_lead_out_is_refused(one: lading.Container, where: str) -> None:
    with pytest.raises(Invalid):
        await one.exec(["pwd"], working_dir=where)


async def test_a_link_to_a_descriptor_leads_nowhere(one: lading.Container) -> None:
    """What the runtime has open itself must not become the command's directory (CVE-2024-21626)."""
    for number in range(3, 31):
        await one.exec(["ln", "-sfn", f"/proc/self/fd/{number}", "/way-out"])
        done = await one.exec(["ls", "-di", "."], working_dir="/way-out")
        assert done.exit_code in (126, 127), (number, done)


async def test_no_descriptor_is_left_over_for_the_command(one: lading.Container) -> None:
    before = os.open("/", os.O_RDONLY)
    os.set_inheritable(before, True)
    try:
        done = await one.exec(["sh", "-c", "ls /proc/self/fd | wc -l; readlink /proc/self/fd/0"])
    finally:
        os.close(before)
    assert done.stdout.split() == [b"4", b"/dev/null"], "three, and the one that ls reads the directory with"


async def test_privileges_are_those_of_the_container(engine: lading.Engine) -> None:
    one = await started(engine)

    async def status(**options: object) -> dict[str, str]:
        done = await one.exec(["cat", "/proc/self/status"], **options)  # type: ignore[arg-type]
        lines = (line.split(":\t") for line in done.stdout.decode().splitlines())
        return {name: value for name, value in lines if name.startswith(("Cap", "Sec", "NoNew"))}

    default = await status()
    own = Path(f"/proc/{one.pid}/status").read_text()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t{default[name]}\n" in own
    assert (default["CapBnd"], default["Seccomp"]) == ("00000000a80425fb", "2")
    other = await status(user="app")
    assert (other["CapEff"], other["CapPrm"], other["CapBnd"]) == ("0" * 16, "0" * 16, default["CapBnd"])
    every = await status(privileged=True)
    assert every["CapEff"] == every["CapBnd"] == capabilities_of(os.getpid())
    for one_status in (default, other, every):
        assert (one_status["CapInh"], one_status["CapAmb"], one_status["Seccomp"]) == ("0" * 16, "0" * 16, "2")


async def test_the_runtime_is_not_reached_through_proc(one: lading.Container, engine: lading.Engine) -> None:
    """An exec of /proc/self/exe runs the container's program, or nothing (CVE-2019-5736)."""
    runtime = Path((await engine.core.runtime()).path)
    before = runtime.read_bytes()
    done = await one.exec(["/proc/self/exe", "--version"])
    assert done.exit_code != 0
    assert runtime.read_bytes() == before


async def test_a_command_is_refused_where_none_can_run(engine: lading.Engine) -> None:
    one = await engine.containers.create(IMAGE, FOREVER)
    with pytest.raises(WrongPhase):
        await one.exec(["true"])
    await one.start()
    await one.pause()
    with pytest.raises(WrongPhase, match="paused"):
        await one.exec(["true"])
    await one.unpause()
    assert (await one.exec(["true"])).exit_code == 0
    with pytest.raises(Invalid):
        await one.exec([])
    await one.stop(timeout=0)
    with pytest.raises(WrongPhase):
        await one.exec(["true"])
    await one.remove()
    with pytest.raises(NotFound):
        await one.exec(["true"])


async def test_a_stream_is_a_conversation(one: lading.Container) -> None:
    script = "while read line; do echo got $line; done; echo over >&2; exit 4"
    async with one.exec_stream(["sh", "-c", script]) as shell:
        assert shell.stdin is not None
        for word in (b"one", b"two"):
            await shell.stdin.send_all(word + b"\n")
            assert await shell.stdout.receive_some() == b"got " + word + b"\n"
        await shell.stdin.send_eof()
        assert [data async for data in shell.stderr] == [b"over\n"]
        assert [data async for data in shell.stdout] == []
        assert await shell.wait() == 4


async def test_a_signal_reaches_the_command(one: lading.Container) -> None:
    script = "trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.02; done"
    async with one.exec_stream(["sh", "-c", script]) as process:
        assert await process.stdout.receive_some() == b"ready\n"
        assert await process.kill("USR1")
        assert await process.wait() == 9
        assert not await process.kill()
        assert process.pid == 0


@pytest.mark.parametrize("how", ["leave", "cancel", "error", "timeout"])
async def test_who_goes_away_leaves_no_process(one: lading.Container, engine: lading.Engine, how: str) -> None:
    command = ["sh", "-c", "sleep 1001 & sleep 1002; echo no"]
    cgroup = f"/lading/{engine.core.paths.run.name}/{one.id}"
    before = alive(cgroup)
    assert len(before) == 1
    if how == "timeout":
        done = await one.exec(command, timeout=0.5)
        assert (done.exit_code, done.timed_out, done.why) == (137, True, "")
    elif how == "cancel":
        with trio.move_on_after(0.5) as scope:
            await one.exec(command)
        assert scope.cancelled_caught
    else:
        with suppress(ValueError):
            async with one.exec_stream(command) as process:
                with trio.fail_after(10):
                    while len(alive(cgroup)) < 4 or not process.pid:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                assert process.pid in processes_in(cgroup)
                if how == "error":
                    raise ValueError
    assert alive(cgroup) == before
    (exited,) = [event for event in execs_of(engine) if isinstance(event, ExecExited)]
    assert exited == ExecExited(137)
    assert one.status == "running"


async def test_a_stalled_reader_stalls_only_its_own_command(one: lading.Container) -> None:
    async with one.exec_stream(["sh", "-c", "yes | head -c 5000000; echo done >&2"]) as slow:
        for _ in range(5):
            assert (await one.exec(["echo", "quick"])).stdout == b"quick\n"
        got = 0
        async for data in slow.stdout:
            got += len(data)
        assert got == 5_000_000, "nothing is lost by waiting"
        assert await slow.wait() == 0


async def test_what_is_closed_stops_nobody(one: lading.Container) -> None:
    async with one.exec_stream(["sh", "-c", "yes | head -c 5000000; echo done >&2"]) as process:
        await process.stdout.aclose()
        with trio.fail_after(10):
            assert [data async for data in process.stderr][-1].endswith(b"done\n")
            assert await process.wait() == 0


@pytest.mark.long
async def test_something_left_behind_does_not_hold_the_result(one: lading.Container) -> None:
    with trio.fail_after(8):
        done = await one.exec(["sh", "-c", "sleep 1000 & echo started"])
    assert (done.exit_code, done.stdout) == (0, b"started\n")


async def test_a_probe_leaves_no_trace_in_the_log(one: lading.Container, engine: lading.Engine) -> None:
    before = engine.log.position
    probe = engine.core.execs.probe
    assert await probe(one.id, ["sh", "-c", "echo a; echo b >&2; exit 3"], timeout=10, limit=100) in (
        (3, b"a\nb\n"),
        (3, b"b\na\n"),
    )
    assert await probe(one.id, ["echo", "long"], timeout=10, limit=2) == (0, b"lo")
    assert await probe(one.id, ["sh", "-c", "echo x; sleep 100"], timeout=0.5, limit=9) == (None, b"x\n")
    assert (await probe(one.id, ["nosuch"], timeout=10, limit=9))[0] == 127
    assert engine.log.position == before


async def test_every_exec_is_over_in_the_log_before_its_container(engine: lading.Engine) -> None:
    one = await started(engine, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done")
    await printed(one, b"ready")
    results: list[object] = []
    limit = trio.CapacityLimiter(40)

    async def run(number: int) -> None:
        async with limit:
            try:
                results.append((await one.exec(["sleep", "1000"] if number % 3 else ["true"])).exit_code)
            except WrongPhase:
                results.append("refused")

    async with trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(run, number)
        await trio.sleep(0.4)
        await one.stop(timeout=0)
    assert len(results) == 500
    (end,) = [record for record in records(engine, one.id) if isinstance(record.event, Exited)]
    told = [record for record in everything(engine) if record.stream.startswith("exec/")]
    begun = {record.stream for record in told if isinstance(record.event, ExecCreated)}
    over = {record.stream for record in told if isinstance(record.event, ExecExited)}
    assert begun == over
    assert begun
    assert max(record.position for record in told) < end.position
    assert engine.core.log.scan(EXECS) == []
    assert 137 in results


async def test_one_that_was_never_started_is_over_with_its_container(engine: lading.Engine) -> None:
    one = await started(engine)
    caller = new_caller()
    live = await engine.core.execs.create(one.id, ExecSpec(("true",), working_dir=""), caller)
    assert engine.core.execs.ids(one.id) == [live.id]
    assert engine.core.execs.inspect(live.id).phase == "created"
    await one.stop(timeout=0)
    assert outcome(engine, live.id)[-1] == ExecExited(None, "its container ended before it was started")
    assert (await live.wait(), engine.core.execs.ids(one.id)) == (None, [])
    await happens(engine, one.id, Exited)
    with pytest.raises(NotFound):
        await engine.core.execs.start(live.id, caller)


async def test_a_created_exec_starts_once(engine: lading.Engine, one: lading.Container) -> None:
    execs = engine.core.execs
    live = await execs.create(one.id, ExecSpec(("sleep", "1000"), working_dir=""), new_caller())
    assert await execs.start(live.id, new_caller(), detach=True) is live
    with pytest.raises(WrongPhase):
        await execs.start(live.id, new_caller())
    with trio.fail_after(10):
        while not live.pid:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert execs.inspect(live.id).pid == live.pid
    await live.kill(signal.SIGTERM)
    assert await live.wait() == 143
    view = execs.inspect(live.id)
    assert (view.phase, view.exit_code, view.pid, view.spec.working_dir) == ("exited", 143, 0, "/")
