"""`lading log` tells what happened, of removed containers too, whether or not an engine runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from cli_program import Cli
from stage import Census

import lading
from lading.engine.cli.events import Words, as_dict
from lading.events.codec import SCHEMAS
from lading.events.envelope import UNKNOWN, Actor, Record
from lading.storage.store import read_log

pytestmark = [pytest.mark.real, pytest.mark.slow]


@attrs.frozen
class History:
    """A store and the ids of its containers in the order of their making."""

    cli: Cli
    ids: tuple[str, ...]


async def _live(root: Path, archive: Path) -> tuple[str, ...]:
    async with lading.open_engine(root) as engine:
        await engine.images.import_rootfs(archive, "busybox:1", comment="by hand")
        first = await engine.containers.create("busybox:1", ["true"], name="web")
        await first.start()
        await first.wait()
        await first.rename("shop")
        await first.remove()
        second = await engine.containers.create("busybox:1", ["echo", "a b", "\x1b[31m"], name="web")
        await second.remove()
        third = await engine.containers.create("busybox:1", ["nosuch"], name="web")
        with pytest.raises(lading.errors.CannotStart):
            await third.start()
        return first.id, second.id, third.id


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[History]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    cli = Cli(tmp_path_factory.mktemp("history") / "store")
    census = Census(cli.root)
    yield History(cli, trio.run(_live, cli.root, busybox_tar))
    assert not cli.engines(), "reading the history must not start an engine"
    census.check()
    census.clean()


def records(cli: Cli, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in cli("log", "--json", *words).stdout.splitlines()]


def test_every_record_has_every_field(history: History) -> None:
    found = records(history.cli)
    assert [record["position"] for record in found] == list(range(1, len(found) + 1))
    assert all(record["type"] in SCHEMAS for record in found)
    fields = {field.name for field in attrs.fields(Record)} - {"event"} | {"type", "data", "utc"}
    assert all(set(record) == fields for record in found)
    assert {record["type"] for record in found} >= {"store.created", "image.added", "container.exited"}
    log = read_log(history.cli.root)
    try:
        assert found == [json.loads(json.dumps(as_dict(record))) for record in log.read()]
    finally:
        log.close()


def test_the_table_shows_who_did_what_when_and_to_whom(history: History) -> None:
    lines = history.cli("log").stdout.splitlines()
    assert lines[0].split() == ["POSITION", "WHEN", "WHO", "STREAM", "WHAT", "DETAILS"]
    assert len(lines) == len(records(history.cli)) + 1
    assert f"root[{os.getpid()}] python" in lines[1]
    assert "ago" in lines[1]
    [renamed] = [line for line in lines if "container.renamed" in line]
    assert "web to shop" in renamed
    [failed] = [line for line in lines if "start-failed" in line]
    assert "exit code 127" in failed


def test_the_time_itself_is_shown_on_request(history: History) -> None:
    line = history.cli("log", "--utc", "-n", "1").stdout.splitlines()[1]
    assert str(records(history.cli, "-n", "1")[0]["utc"])[:-7] + "Z" in line


def test_what_a_container_was_asked_to_run_can_not_write_on_the_terminal(history: History) -> None:
    assert "\x1b" not in history.cli("log").stdout
    assert "echo a b \\x1b[31m" in history.cli("log").stdout


def test_a_removed_container_is_found_by_its_last_name(history: History) -> None:
    found = records(history.cli, "shop")
    assert {record["stream"] for record in found} == {f"container/{history.ids[0]}"}
    assert found[0]["type"] == "container.created"
    assert found[-1]["type"] == "container.removed"
    lines = history.cli("log", "shop").stdout.splitlines()
    assert [re.split(" {3,}", line)[3] for line in lines[1:3]] == ["web", "web"], "as it was called then"


def test_a_name_is_that_of_the_moment_in_whatever_order_it_is_shown(history: History) -> None:
    """Also when the record that gave it is not among those that are shown, or comes later."""
    for options in ((), ("--reverse",), ("--type", "container.start-requested", "--type", "container.removed")):
        rows = [re.split(" {3,}", line) for line in history.cli("log", *options).stdout.splitlines()[1:]]
        names = {row[4]: row[3] for row in rows if row[4] in ("container.started", "container.removed")}
        shown = dict.fromkeys(row[3] for row in rows if row[4] == "container.removed")
        assert names.get("container.started", "web") == "web"
        assert set(shown) == {"shop", "web"}


def test_a_name_is_whose_it_is_now(history: History) -> None:
    assert {record["stream"] for record in records(history.cli, "web")} == {f"container/{history.ids[2]}"}


def test_a_removed_container_is_found_by_its_id_and_by_the_beginning_of_it(history: History) -> None:
    for identifier in history.ids:
        for reference in (identifier, identifier[:20]):
            assert {record["stream"] for record in records(history.cli, reference)} == {f"container/{identifier}"}


def test_of_a_name_that_several_had_the_last_counts_and_the_others_are_told(fresh: Cli, busybox_tar: Path) -> None:
    async def live() -> str:
        async with lading.open_engine(fresh.root) as engine:
            await engine.images.import_rootfs(busybox_tar, "busybox:1")
            for _ in range(2):
                container = await engine.containers.create("busybox:1", ["true"], name="twice")
                await container.remove()
            return container.id

    last = trio.run(live)
    done = fresh("log", "twice", "--json")
    assert json.loads(done.stdout.splitlines()[0])["stream"] == f"container/{last}"
    assert "2 containers were called twice" in done.stderr


def test_a_part_of_the_history_is_the_part_that_was_asked_for(history: History) -> None:
    every = [record["position"] for record in records(history.cli)]
    assert [record["position"] for record in records(history.cli, "-n", "3")] == every[-3:]
    assert [record["position"] for record in records(history.cli, "--after", "4")] == every[4:]
    assert [record["position"] for record in records(history.cli, "--after", "4", "-n", "1000")] == every[4:]
    assert records(history.cli, "-n", "0") == []
    assert records(history.cli, "--after", "100000") == []
    shop = [record["position"] for record in records(history.cli, "shop")]
    assert [record["position"] for record in records(history.cli, "shop", "-n", "2")] == shop[-2:]


@pytest.mark.parametrize("reference", ["nosuch", "", "z" * 300, "é", "0" * 64])
def test_what_never_was_is_not_found(history: History, reference: str) -> None:
    done = history.cli("log", reference, code=1)
    assert done.stderr == f"lading: no such container: {reference}".strip() + "\n"


def test_no_store_is_one_line(tmp_path: Path) -> None:
    done = Cli(tmp_path / "none")("log", code=1)
    assert done.stderr.startswith("lading: cannot read the log of")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_reader_that_leaves_early_ends_it_quietly(history: History) -> None:
    process = history.cli.start("log")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 141
    process.stderr.close()


def test_the_history_can_be_read_while_its_owner_writes(fresh: Cli, busybox_tar: Path) -> None:
    async def live() -> None:
        async with lading.open_engine(fresh.root) as engine:
            for count in range(2):
                before = await trio.to_thread.run_sync(lambda: len(records(fresh)))
                await engine.images.import_rootfs(busybox_tar, f"busybox:{count}")
                assert await trio.to_thread.run_sync(lambda: len(records(fresh))) > before

    trio.run(live)


@pytest.mark.parametrize(
    ("actor", "words"),
    [
        (UNKNOWN, "unknown"),
        (Actor(client="http"), "unknown http"),
        (Actor(pid=7), "unknown[7]"),
        (Actor(0, 0, 7, "docker"), "root[7] docker"),
        (Actor(4_000_000_000, 0, None, ""), "4000000000"),
    ],
)
def test_who_is_not_known_is_never_root(history: History, actor: Actor, words: str) -> None:
    log = read_log(history.cli.root)
    try:
        assert Words(log, utc=False).who(actor) == words
    finally:
        log.close()


def test_names_are_completed_from_the_store(history: History) -> None:
    root = os.fspath(history.cli.root)

    def completed(*words: str) -> list[str]:
        line = {"COMP_WORDS": " ".join(("lading", "--root", root, *words)), "COMP_CWORD": str(len(words) + 2)}
        done = history.cli(**line, _LADING_COMPLETE="bash_complete")
        return [answer.partition(",")[2] for answer in done.stdout.split()]

    assert completed("rm", "w") == ["web"]
    assert completed("rm", history.ids[2][:5]) == [history.ids[2][:12]]
    assert completed("run", "busy") == ["busybox:1"]
    assert completed("rm", "x") == []
    assert completed("renam") == ["rename"]
