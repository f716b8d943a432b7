"""A container's life, step by step, with a real runtime: what callers get, and what the log says of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import IMAGE, Stage, event, happens, output, printed, records, story

import lading
from lading.events.container import Exited, Phase, Removed, Started, StartFailed, StopRequested
from lading.events.errors import (
    AlreadyExists,
    Ambiguous,
    CannotStart,
    Conflict,
    EngineClosed,
    InUse,
    Invalid,
    NotFound,
    WrongPhase,
)
from lading.storage.procfs import is_alive

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = ["sleep", "1000"]
RUN = ["Created", "StartRequested", "Started", "Exited"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]


async def test_each_step_of_a_life_is_one_event_and_one_phase(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, FOREVER, name="first")
        assert (made.status, made.state.phase, made.pid, made.name) == ("created", Phase.CREATED, 0, "first")
        assert not stage.paths.container(made.id).exists()
        assert await made.wait() is None

        await made.start()
        assert (made.status, made.state.phase, made.state.run) == ("running", Phase.RUNNING, 1)
        assert os.readlink(f"/proc/{made.pid}/root") == "/"
        assert Path(f"/proc/{made.pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
        assert made.state.process is not None
        assert is_alive(made.state.process)

        before = time.time_ns()
        await made.kill("TERM")  # pid 1 of a pid namespace has no default action for it
        assert made.status == "running"
        assert await made.stop(timeout=0) == 137
        assert (made.status, made.state.phase, made.pid) == ("exited", Phase.STOPPED, 0)
        assert (made.state.exit_code, await made.wait()) == (137, 137)
        assert before < made.state.finished_at < time.time_ns()

        await made.start()
        assert (made.status, made.state.run, made.state.exit_code) == ("running", 2, None)
        await made.kill()
        assert await made.wait() == 137
        await made.remove()
        with pytest.raises(NotFound):
            _ = made.state
        assert story(engine, made.id) == [
            *("Created", "StartRequested", "Started", "KillRequested", "StopRequested", "Exited"),
            *("StartRequested", "Started", "KillRequested", "Exited", "RemoveRequested", "Removed"),
        ]
        assert not stage.paths.container(made.id).exists()
        assert engine.containers.list() == []


async def test_events_carry_the_run_the_process_and_the_reason(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, FOREVER, stop_timeout=1)
        await made.start()
        process = made.state.process
        assert event(engine, made.id, Started) == Started(1, process)
        await made.stop(timeout=0, signal="int")
        assert event(engine, made.id, StopRequested) == StopRequested("SIGINT", 0)
        ended = event(engine, made.id, Exited)
        assert (ended.run, ended.exit_code, ended.why) == (1, 137, "")
        assert 0 <= records(engine, made.id)[-1].time - ended.at < 5e9
        asked = [record for record in records(engine, made.id) if type(record.event).__name__ == "StartRequested"]
        assert [r.cause for r in records(engine, made.id) if isinstance(r.event, Started)] == [asked[0].position]
        name = made.name
        await made.remove()
        assert event(engine, made.id, Removed) == Removed(name)


@pytest.mark.long
async def test_stop_gives_up_on_a_process_that_ignores_it(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, STUBBORN)
        await made.start()
        await printed(made, b"ready")
        began = trio.current_time()
        assert await made.stop(timeout=1) == 137
        assert 1 <= trio.current_time() - began < 3


async def test_stop_ends_at_once_with_the_code_of_a_process_that_heeds_it(stage: Stage) -> None:
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.02; done"
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", script], stop_signal="USR1")
        await made.start()
        await printed(made, b"ready")
        with trio.fail_after(5):
            assert await made.stop() == 7
        assert event(engine, made.id, StopRequested) == StopRequested("SIGUSR1", 10)


async def test_a_second_stop_may_be_more_impatient(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, STUBBORN)
        await made.start()
        await printed(made, b"ready")
        codes: list[int | None] = []

        async def stop(timeout: int) -> None:
            codes.append(await made.stop(timeout=timeout))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, -1)
            await happens(engine, made.id, StopRequested)
            nursery.start_soon(stop, 0)
        assert codes == [137, 137]


async def test_every_exit_code_is_told_as_it_is(stage: Stage) -> None:
    codes = [0, 1, 2, 42, 125, 126, 127, 128, 130, 137, 143, 254, 255]
    got: dict[int, int | None] = {}
    async with stage.engine() as engine:

        async def run(code: int) -> None:
            done = await engine.containers.run(IMAGE, ["sh", "-c", f"exit {code}"])
            got[code] = done.exit_code

        for at in range(0, len(codes), 4):
            async with trio.open_nursery() as nursery:
                for code in codes[at : at + 4]:
                    nursery.start_soon(run, code)
    assert got == {code: code for code in codes}


@pytest.mark.long
async def test_all_256_exit_codes_are_told_as_they_are(stage: Stage) -> None:
    got: dict[int, int | None] = {}
    limit = trio.CapacityLimiter(8)
    async with stage.engine() as engine, trio.open_nursery() as nursery:

        async def run(code: int) -> None:
            async with limit:
                got[code] = (await engine.containers.run(IMAGE, ["sh", "-c", f"exit {code}"])).exit_code

        for code in range(256):
            nursery.start_soon(run, code)
    assert got == {code: code for code in range(256)}


@pytest.mark.parametrize("name", ["KILL", "SIGABRT", "11", "RTMIN+1"])
async def test_death_by_a_signal_is_128_and_its_number(stage: Stage, name: str) -> None:
    """The container's first process is only killed from outside by KILL; a child of its dies by any."""
    async with stage.emptied() as engine:
        if name == "KILL":
            made = await engine.containers.create(IMAGE, FOREVER)
            await made.start()
            await made.kill(name)
            assert await made.wait() == 128 + signal.SIGKILL
        else:
            number = {"SIGABRT": 6, "11": 11, "RTMIN+1": int(signal.SIGRTMIN) + 1}[name]
            done = await engine.containers.run(IMAGE, ["sh", "-c", f"sh -c 'kill -{number} $$'; exit $?"])
            assert done.exit_code == 128 + number


async def test_a_signal_reaches_the_first_process(stage: Stage) -> None:
    script = "trap 'echo got it' USR2; echo ready; while :; do sleep 0.02; done"
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", script])
        await made.start()
        await printed(made, b"ready")
        await made.kill("USR2")
        await printed(made, b"got it")
        assert made.status == "running"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["nope"], 127, "executable file not found in $PATH"),
        (["/no/such/file"], 127, "no such file or directory"),
        (["/usr/bin/plain"], 126, "permission denied"),
        (["/etc"], 126, "permission denied"),
        (["/usr/bin/bad-format"], 126, "exec format error"),
        (["/usr/bin/bad-interpreter"], 127, "no such file or directory"),
    ],
)
async def test_a_command_that_cant_be_executed_says_so(
    stage: Stage, command: list[str], code: int, words: str
) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, command)
        with pytest.raises(CannotStart) as caught:
            await made.start()
        assert (caught.value.exit_code, caught.value.container) == (code, made.id)
        assert words.lower() in str(caught.value).lower()
        assert (made.status, made.state.phase, made.state.exit_code) == ("created", Phase.STOPPED, code)
        assert story(engine, made.id) == ["Created", "StartRequested", "StartFailed"]
        assert event(engine, made.id, StartFailed).exit_code == code
        assert await output(made) == b""
        with pytest.raises(CannotStart):  # and it may be tried again
            await made.start()
        assert made.state.run == 2
        await made.remove()
        with pytest.raises(CannotStart):
            await engine.containers.run(IMAGE, command)
        assert engine.containers.list() == []


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_each_runtime_tells_the_same_story(stage: Stage, runtime: str) -> None:
    async with stage.engine(runtime=runtime) as engine:
        done = await engine.containers.run(IMAGE, ["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
        for command, code in ((["nope"], 127), (["/usr/bin/plain"], 126), (["/usr/bin/bad-interpreter"], 127)):
            with pytest.raises(CannotStart) as caught:
                await engine.containers.run(IMAGE, command)
            assert caught.value.exit_code == code
        made = await engine.containers.create(IMAGE, FOREVER)
        await made.start()
        assert Path(f"/proc/{made.pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
        assert await made.stop(timeout=0) == 137
        await made.remove()


@pytest.mark.parametrize("user", ["nobody-there", "app:no-such-group", "1000:no-such-group"])
async def test_a_user_that_the_image_doesnt_have_fails_the_start(stage: Stage, user: str) -> None:
    async with stage.engine() as engine:
        with pytest.raises(CannotStart, match="unable to find") as caught:
            await engine.containers.run(IMAGE, ["true"], user=user)
        assert caught.value.exit_code == 125


async def test_a_name_belongs_to_one_container_at_a_time(stage: Stage) -> None:
    async with stage.engine() as engine:
        first = await engine.containers.create(IMAGE, FOREVER, name="web")
        with pytest.raises(AlreadyExists) as caught:
            await engine.containers.create(IMAGE, FOREVER, name="web")
        assert caught.value.holder == first.id
        second = await engine.containers.create(IMAGE, FOREVER, name="db")
        with pytest.raises(AlreadyExists):
            await second.rename("web")
        with pytest.raises(WrongPhase, match="already named"):
            await second.rename("db")
        await second.rename("cache")
        assert engine.containers.get("cache").id == second.id
        with pytest.raises(NotFound):
            engine.containers.get("db")
        third = await engine.containers.create(IMAGE, FOREVER, name="db")
        await first.remove()
        await third.rename("web")
        assert {state.name for state in engine.containers.list()} == {"web", "cache"}
        assert story(engine, second.id) == ["Created", "Renamed"]
        await third.remove()
        await second.remove()


async def test_of_fifty_creates_of_one_name_one_wins(stage: Stage) -> None:
    won: list[str] = []
    lost = 0
    async with stage.emptied() as engine:

        async def create() -> None:
            nonlocal lost
            try:
                won.append((await engine.containers.create(IMAGE, FOREVER, name="only")).id)
            except AlreadyExists:
                lost += 1

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(create)
        assert (len(won), lost) == (1, 49)
        assert engine.containers.get("only").id == won[0]


@pytest.mark.parametrize("name", ["", "a", "../x", "a/b", "-rm", ".", "..", "x\n", "naïve", "a b", "x" * 256])
async def test_a_name_that_is_none_is_refused(stage: Stage, name: str) -> None:
    async with stage.engine() as engine:
        position = engine.log.position
        with pytest.raises(Invalid):
            await engine.containers.create(IMAGE, FOREVER, name=name)
        assert engine.log.position == position


async def test_a_container_is_found_by_id_name_and_unique_prefix(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["aa" + "1" * 62, "aa" + "2" * 62, "bb" + "3" * 62])
    async with stage.emptied() as engine:
        monkeypatch.setattr("lading.engine.containers.containers.secrets.token_hex", lambda _: next(ids))
        one = await engine.containers.create(IMAGE, name="one", command=FOREVER)
        two = await engine.containers.create(IMAGE, name="two", command=FOREVER)
        three = await engine.containers.create(IMAGE, name="aa1", command=FOREVER)
        monkeypatch.undo()
        get = engine.containers.get
        assert get(one.id).id == get("one").id == get("/one").id == one.id
        assert get("aa2").id == two.id
        assert get("aa1").id == three.id  # a name before a prefix
        assert get("aa11").id == one.id
        with pytest.raises(Ambiguous) as caught:
            get("aa")
        assert set(caught.value.matches) == {one.id, two.id}
        for unknown in ("", "zz", "ONE", "bb4", "one\n", "../one", "ａ", "x" * 300, "%"):
            with pytest.raises(NotFound):
                get(unknown)


async def test_lists_are_newest_first_and_can_leave_out_what_doesnt_run(stage: Stage) -> None:
    async with stage.emptied() as engine:
        ids = [(await engine.containers.create(IMAGE, FOREVER)).id for _ in range(3)]
        await engine.containers.get(ids[1]).start()
        assert [state.id for state in engine.containers.list()] == ids[::-1]
        assert [state.id for state in engine.containers.list(all=False)] == [ids[1]]


async def test_what_the_phase_doesnt_allow_is_refused_and_changes_nothing(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, FOREVER)

        async def refused(method: Any, *args: Any, **options: Any) -> None:
            position = engine.log.position
            with pytest.raises(WrongPhase):
                await method(*args, **options)
            assert engine.log.position == position

        await refused(made.stop)
        await refused(made.kill)
        await made.start()
        await refused(made.start)
        await refused(made.remove)
        for wrong in ("SIGNOPE", "0", "65", "-9", ""):
            with pytest.raises(Invalid):
                await made.kill(wrong)
        assert made.status == "running"
        pid = made.pid
        await made.remove(force=True)
        assert not os.path.exists(f"/proc/{pid}")
        assert story(engine, made.id)[-3:] == ["RemoveRequested", "Exited", "Removed"]
        for method in (made.start, made.stop, made.kill, made.wait, made.remove):
            with pytest.raises(NotFound):
                await method()
        with pytest.raises(NotFound):
            made.logs()


async def test_the_writable_layer_lasts_from_run_to_run(stage: Stage) -> None:
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", "echo line >> /tmp/file; wc -l < /tmp/file"])
        for number in (1, 2, 3):
            await made.start()
            assert await made.wait() == 0
            assert (await output(made)).split() == [b"%d" % each for each in range(1, number + 1)]
        assert story(engine, made.id) == ["Created", *RUN[1:] * 3]


async def test_containers_of_one_image_share_it_and_write_apart(stage: Stage) -> None:
    script = "cat /etc/hello; echo $0 > /etc/hello; rm -r /home; echo $0 > /new; cat /etc/hello /new; ls -d /home"
    async with stage.emptied() as engine:
        [layer] = [stage.paths.layer(chain) for chain in engine.images.list()[0].layers]
        before = {path: path.lstat() for path in (layer, *layer.rglob("*"))}
        outputs: dict[str, bytes] = {}

        async def run(word: str) -> None:
            done = await engine.containers.run(IMAGE, ["sh", "-c", script, word], remove=False)
            outputs[word] = done.stdout

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(run, f"container{number}")
        assert outputs == {
            word: f"hello from the image\n{word}\n{word}\n".encode()
            for word in (f"container{n}" for n in range(5))
        }
        after = {path: path.lstat() for path in (layer, *layer.rglob("*"))}
        # Reading changes atime; nothing else of the image has changed.
        changed = [
            path
            for path in before.keys() | after.keys()
            if path not in after or path not in before or before[path].st_ctime_ns != after[path].st_ctime_ns
        ]
        assert changed == []
        uppers = {
            (stage.paths.container(s.id) / "upper/new").read_text().strip() for s in engine.containers.list()
        }
        assert uppers == outputs.keys()


async def test_run_captures_up_to_a_limit_and_keeps_or_removes(stage: Stage) -> None:
    async with stage.emptied() as engine:
        done = await engine.containers.run(IMAGE, ["sh", "-c", "echo out; echo err >&2"], labels={"a": "b"})
        assert (done.exit_code, done.stdout, done.stderr, done.truncated) == (0, b"out\n", b"err\n", False)
        assert engine.containers.list() == []
        assert story(engine, done.container) == [*RUN, "RemoveRequested", "Removed"]
        much = ["sh", "-c", "head -c 100000 /dev/zero"]
        done = await engine.containers.run(IMAGE, much, capture=1000, remove=False, name="kept", labels={"a": "b"})
        assert (len(done.stdout), done.truncated, done.exit_code) == (1000, True, 0)
        [kept] = engine.containers.list()
        assert (kept.name, kept.spec.labels) == ("kept", {"a": "b"})


async def test_a_closed_engine_and_an_owned_store_refuse(stage: Stage) -> None:
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, FOREVER)
        with pytest.raises(InUse, match=str(os.getpid())):
            async with lading.open_engine(stage.root):
                pass
    for method in (made.start, made.remove):
        with pytest.raises(EngineClosed):
            await method()
    with pytest.raises(EngineClosed):
        await engine.containers.create(IMAGE, FOREVER)


async def test_commands_on_one_container_at_once_are_all_answered(stage: Stage) -> None:
    """Starts, stops, kills, renames and waits by many callers: each is done or refused, the log is whole."""
    async with stage.emptied() as engine:
        made = await engine.containers.create(IMAGE, ["sh", "-c", "trap 'exit 0' TERM; sleep 0.05"])

        async def caller(number: int) -> None:
            for step in range(4):
                try:
                    match (number + step) % 5:
                        case 0:
                            await made.start()
                        case 1:
                            await made.stop(timeout=0)
                        case 2:
                            await made.rename(f"name-{number}-{step}")
                        case 3:
                            await made.kill("USR1")
                        case _:
                            await made.wait()
                except (WrongPhase, CannotStart, AlreadyExists):
                    pass

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(caller, number)
        await made.wait()
        assert made.state.phase in (Phase.STOPPED, Phase.CREATED)
        await engine.log.verify()


async def test_of_many_removals_one_removes_and_the_rest_are_told(stage: Stage) -> None:
    answers: list[str] = []
    async with stage.engine() as engine:
        made = await engine.containers.create(IMAGE, FOREVER)
        await made.start()

        async def remove() -> None:
            try:
                await made.remove(force=True)
                answers.append("removed")
            except (NotFound, WrongPhase, Conflict) as refusal:
                answers.append(type(refusal).__name__)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(remove)
        assert answers.count("removed") == 1
        assert story(engine, made.id).count("Removed") == 1
