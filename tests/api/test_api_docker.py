"""The stock docker client against a real engine: what it prints, and the exit codes it ends with."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from stage import printed

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUIET = ("--network", "none")
READY = "trap 'exit 3' TERM; echo ready; sleep 1000 & wait"


async def lines(process: trio.Process) -> AsyncGenerator[str, None]:
    """What a running client prints, line by line."""
    assert process.stdout is not None
    left = b""
    async for data in process.stdout:
        *whole, left = (left + data).split(b"\n")
        for line in whole:
            yield line.decode()


async def test_version_and_info_are_understood(api: Any) -> None:
    version = await api.docker("version", "--format", "{{json .Server}}")
    assert version.code == 0, version.err
    server = json.loads(version.out)
    assert (server["ApiVersion"], server["MinAPIVersion"], server["Os"]) == ("1.47", "1.24", "linux")
    client = await api.docker("version", "--format", "{{.Client.APIVersion}}")
    assert client.out.strip() == "1.47"  # it came down to ours
    info = await api.docker("info", "--format", "{{.Driver}} {{.Containers}} {{.Images}}")
    assert (info.code, info.out) == (0, "overlay2 0 1\n")


async def test_import_from_a_file_and_from_standard_input(api: Any, busybox_tar: Path) -> None:
    changes = ["--change", 'CMD ["echo", "from the image"]', "--change", "ENV A=1 B='two words'"]
    said = await api.docker("import", *changes, "--message", "mine", str(busybox_tar), "mine:1")
    assert (said.code, said.out.startswith("sha256:")) == (0, True), said
    said = await api.docker("import", "-", "other", stdin=busybox_tar.read_bytes())
    assert (said.code, said.out.startswith("sha256:")) == (0, True), said
    listed = await api.docker("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert set(listed.out.split()) == {"mine:1", "other:latest", "busybox:test"}
    assert (await api.docker("images", "-q", "mine")).out.count("\n") == 1
    assert (await api.docker("run", "--rm", *QUIET, "mine:1")).out == "from the image\n"
    assert (await api.docker("run", "--rm", *QUIET, "mine:1", "sh", "-c", "echo $A $B")).out == "1 two words\n"
    shown = await api.docker("image", "inspect", "--format", "{{.Comment}} {{.Os}}", "mine:1")
    assert shown.out == "mine linux\n"
    assert (await api.docker("image", "inspect", "nope")).code == 1
    refused = await api.docker("import", "-", "bad", stdin=b"this is no archive" * 100)
    assert (refused.code, "Error response from daemon" in refused.err) == (1, True)


async def test_run_keeps_standard_output_and_error_apart(api: Any) -> None:
    said = await api.docker("run", *QUIET, api.image, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, "out\n", "err\n")


@pytest.mark.parametrize("remove", [(), ("--rm",)])
async def test_run_ends_with_dockers_exit_codes(api: Any, remove: tuple[str, ...]) -> None:
    for command, code in (
        (("true",), 0),
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
        (("sh", "-c", "exit 125"), 125),
        (("nope",), 127),
        (("/no/such/file",), 127),
        (("/etc",), 126),
        (("/etc/passwd",), 126),
    ):
        said = await api.docker("run", *remove, *QUIET, api.image, *command)
        assert (said.code, command) == (code, command), said
    assert (await api.docker("ps", "-aq")).out.count("\n") == (0 if remove else 8)


async def test_run_takes_the_usual_options(api: Any) -> None:
    options = ["-e", "X=a b", "-w", "/tmp", "-u", "1000:50", "--hostname", "box", "--name", "it", "-l", "k=v"]
    script = "echo $X; pwd; id -u; id -g; hostname; exit 0"
    said = await api.docker("run", *options, *QUIET, api.image, "sh", "-c", script)
    assert (said.code, said.out) == (0, "a b\n/tmp\n1000\n50\nbox\n")
    shown = await api.docker("inspect", "--format", '{{.Name}} {{index .Config.Labels "k"}}', "it")
    assert shown.out == "/it v\n"
    said = await api.docker("run", "--rm", "--read-only", *QUIET, api.image, "touch", "/x")
    assert (said.code, "Read-only" in said.err) == (1, True)
    said = await api.docker("run", "--rm", "--entrypoint", "echo", *QUIET, api.image, "a", "b")
    assert said.out == "a b\n"


async def test_the_default_network_is_the_hosts_with_a_warning(api: Any) -> None:
    said = await api.docker("run", "--rm", api.image, "echo", "hi")
    assert (said.code, said.out, said.err.startswith("WARNING: There is no bridge network")) == (0, "hi\n", True)


REFUSED = [
    ["-p", "80:80"],
    ["-P"],
    ["--network", "bridge"],
    ["--log-driver", "none"],
    ["--log-opt", "compress=true"],
    ["--gpus", "all"],
    ["--pid", "container:x"],
    ["--ipc", "container:x"],
    ["--cgroup-parent", "/x"],
    ["--cpu-rt-runtime", "1000"],
    ["--blkio-weight-device", "/dev/null:10"],
    ["--security-opt", "apparmor=mine"],
    ["--add-host", "a:host-gateway"],
    ["--annotation", "run.oci.handler=krun"],
    ["--storage-opt", "size=1G"],
]


async def test_options_that_are_not_there_are_refused_and_not_left_out(api: Any) -> None:
    for options in REFUSED:
        said = await api.docker("run", *options, api.image, "true")
        assert (said.code, said.out, options) == (125, "", options), said
        assert "Error response from daemon" in said.err
        assert "this release" in said.err
    assert api.engine.containers.list() == []


async def test_an_image_that_is_not_there_is_looked_for_and_not_found(api: Any) -> None:
    said = await api.docker("run", "localhost:1/nope:x", "true")
    assert (said.code, "Unable to find image 'localhost:1/nope:x' locally" in said.err) == (125, True)
    assert "cannot" in said.err or "could not" in said.err, said.err


async def test_piped_input_reaches_the_command(api: Any) -> None:
    said = await api.docker("run", "--rm", "-i", *QUIET, api.image, "cat", stdin=b"hello\nworld")
    assert (said.code, said.out) == (0, "hello\nworld")
    said = await api.docker("run", "--rm", "-i", *QUIET, api.image, "wc", "-c", stdin=b"x" * 1_000_000)
    assert (said.code, said.out.strip()) == (0, "1000000")
    said = await api.docker("run", "--rm", "-i", *QUIET, api.image, "sh", "-c", "read a; exit 5", stdin=b"x\ny")
    assert said.code == 5


async def test_a_detached_life_from_run_to_rm(api: Any) -> None:
    made = await api.docker("run", "-d", "--name", "web", *QUIET, api.image, "sh", "-c", READY)
    container = made.out.strip()
    assert (made.code, len(container)) == (0, 64)
    await printed(api.engine.containers.get(container), b"ready")

    listed = await api.docker("ps", "--format", "{{.Names}} {{.Image}} {{.State}} {{.Status}}")
    assert listed.out.startswith(f"web {api.image} running Up ")
    assert (await api.docker("run", "--name", "web", *QUIET, api.image, "true")).code == 125
    taken = await api.docker("create", "--name", "web", *QUIET, api.image, "true")
    assert f'The container name "/web" is already in use by container "{container}"' in taken.err
    assert (await api.docker("rm", "web")).code == 1

    assert (await api.docker("rename", "web", "db")).code == 0
    assert (await api.docker("inspect", "--format", "{{.State.Running}} {{.Name}}", "db")).out == "true /db\n"
    assert (await api.docker("stop", "-t", "5", "db")).out == "db\n"
    assert (await api.docker("wait", "db")).out == "3\n"
    assert (await api.docker("stop", "db")).code == 0  # it is stopped: nothing to do
    assert (await api.docker("ps", "-q")).out == ""
    status = await api.docker("ps", "-a", "--filter", "status=exited", "--format", "{{.Status}}")
    assert status.out.startswith("Exited (3) ")
    assert (await api.docker("ps", "-aq", "--no-trunc", "--filter", "name=^/db$")).out.strip() == container
    killed = await api.docker("kill", "db")
    assert (killed.code, "is not running" in killed.err) == (1, True)

    assert (await api.docker("start", "db")).code == 0
    assert (await api.docker("kill", "-s", "KILL", "db")).code == 0
    assert (await api.docker("wait", "db")).out == "137\n"
    assert (await api.docker("start", "db")).code == 0
    assert (await api.docker("rm", "-f", "db")).code == 0
    gone = await api.docker("inspect", "--type", "container", "db")
    assert (gone.code, "No such container: db" in gone.err) == (1, True)
    assert (await api.docker("rm", "db")).code == 1


async def test_logs_of_both_streams_with_tail_and_times(api: Any) -> None:
    script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done"
    await api.docker("run", "--name", "it", *QUIET, api.image, "sh", "-c", script)
    said = await api.docker("logs", "it")
    assert (said.out, said.err) == ("out 1\nout 2\nout 3\n", "err 1\nerr 2\nerr 3\n")
    said = await api.docker("logs", "--tail", "2", "it")
    assert len((said.out + said.err).splitlines()) == 2
    said = await api.docker("logs", "-t", "it")
    assert [line.split("Z ", 1)[1] for line in said.out.splitlines()] == ["out 1", "out 2", "out 3"]
    assert (await api.docker("logs", "--since", "1h", "it")).out == "out 1\nout 2\nout 3\n"
    assert (await api.docker("logs", "--until", "1h", "it")).out == ""
    assert (await api.docker("logs", "nope")).code == 1


async def test_logs_follow_until_the_end(api: Any) -> None:
    script = "echo one; read line; echo $line"
    await api.docker("run", "-d", "-i", "--name", "it", *QUIET, api.image, "sh", "-c", script)
    async with trio.open_nursery() as nursery:
        process = await api.start_docker(nursery, "logs", "-f", "it")
        async with aclosing(lines(process)) as seen:
            with trio.fail_after(20):
                assert await anext(seen) == "one"
                attach = await api.start_docker(nursery, "attach", "it")
                await attach.stdin.send_all(b"two\n")
                assert await anext(seen) == "two"
                assert await process.wait() == 0
                assert await attach.wait() == 0


async def test_attach_sees_output_and_passes_input_and_exit_code(api: Any) -> None:
    script = "read line; echo got $line; exit 9"
    await api.docker("create", "-i", "--name", "it", *QUIET, api.image, "sh", "-c", script)
    said = await api.docker("start", "-a", "-i", "it", stdin=b"this\n")
    assert (said.code, said.out) == (9, "got this\n")


async def test_a_client_that_is_killed_takes_nothing_with_it(api: Any) -> None:
    async with trio.open_nursery() as nursery:
        process = await api.start_docker(
            nursery, "run", "--name", "it", "--sig-proxy=false", *QUIET, api.image, "sh", "-c", READY
        )
        with trio.fail_after(20):
            async with aclosing(lines(process)) as seen:
                assert await anext(seen) == "ready"
        process.kill()
    assert (await api.docker("inspect", "--format", "{{.State.Running}}", "it")).out == "true\n"
    async with trio.open_nursery() as nursery:
        process = await api.start_docker(nursery, "attach", "it")
        await trio.sleep(0.3)
        process.terminate()  # the client passes it on
        with trio.fail_after(20):
            assert await process.wait() == 3


@pytest.mark.long
async def test_events_of_the_past_and_the_present(api: Any) -> None:
    since = str(int(time.time()))
    style = ("--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
    async with trio.open_nursery() as nursery:
        process = await api.start_docker(nursery, "events", "--filter", "type=container", *style)
        await trio.sleep(0.5)
        await api.docker("run", "--rm", "--name", "it", *QUIET, api.image, "sh", "-c", "exit 4")
        async with aclosing(lines(process)) as seen:
            with trio.fail_after(20):
                live = [await anext(seen) for _ in range(4)]
        process.terminate()
    assert live == [f"container {action} it" for action in ("create", "start", "die", "destroy")]
    await trio.sleep(1)  # the client's instants are whole seconds
    past = await api.docker("events", "--since", since, "--until", "0s", "--filter", "container=it", *style)
    assert past.out.splitlines() == live
    code = ("--format", "{{.Actor.Attributes.exitCode}}", "--filter", "event=die")
    assert (await api.docker("events", "--since", since, "--until", "0s", *code)).out == "4\n"


async def test_many_at_once(api: Any) -> None:
    ended: dict[int, Any] = {}

    async def run(number: int) -> None:
        ended[number] = await api.docker(
            "run", "--rm", *QUIET, api.image, "sh", "-c", f"echo {number}; exit {number}"
        )

    async with trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(run, number)
    assert {number: (said.code, said.out) for number, said in ended.items()} == {
        number: (number, f"{number}\n") for number in range(16)
    }
    assert api.engine.containers.list() == []


async def test_what_is_not_there_is_said_to_be_missing(api: Any) -> None:
    await api.docker("run", "-d", "--name", "it", *QUIET, api.image, "sleep", "1000")
    for command in (["network", "ls"], ["plugin", "ls"]):
        said = await api.docker(*command)
        assert (said.code != 0, "page not found" in said.err, command) == (True, True, command)
