"""``lading verify``: a sound history, every kind of damage, seals, archives, and a machine that says otherwise."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import lmdb
import pytest
from cli_program import Cli, end_engines

from lading.storage.environment import open_log
from lading.storage.store import locate

pytestmark = [pytest.mark.real, pytest.mark.slow]


def found(cli: Cli, *words: str, code: int = 0) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(cli("verify", "--json", *words, code=code).stdout)
    assert said["ok"] is (code == 0)
    return said


def whats(said: dict[str, Any]) -> list[str]:
    return [wrong["what"] for wrong in said["wrong"]]


def alter(root: Path, table: str, key: bytes, change: Any) -> None:
    """Change one entry of the log's tables behind its back; nobody owns the store meanwhile."""
    log = open_log(root / "log")

    def work(txn: lmdb.Transaction) -> tuple[None, int, int]:
        value = txn.get(key, db=log.db.tables[table])
        assert value is not None
        txn.put(key, change(value), db=log.db.tables[table])
        return None, 1, 0

    log.db.write(work)
    log.close()


def flip(value: bytes) -> bytes:
    return value[:40] + bytes([value[40] ^ 16]) + value[41:]


@pytest.fixture
def lived(fresh: Cli, busybox_tar: Path) -> Cli:
    """A store that has seen something, whose engine may be there."""
    fresh("import", os.fspath(busybox_tar), "busybox:1")
    fresh("run", "--name", "over", "busybox:1", "true")
    return fresh


@pytest.mark.long
def test_a_sound_store_with_an_engine_at_work(lived: Cli) -> None:
    lived("run", "-d", "--name", "web", "busybox:1", "sleep", "100")
    lines = lived("verify").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["records", "views", "host"]
    head = json.loads(lived("log", "--json", "-n", "1").stdout)
    said = found(lived)
    assert (said["records"]["last"], said["records"]["chain"]) == (head["position"], head["chain"])
    lived("rm", "-f", "web", "over")


@pytest.mark.long
def test_damage_is_told_by_its_position(lived: Cli) -> None:
    """In a record; in what was made from the records; in a store that has lost its log."""
    lived("rm", "over")
    end_engines(lived)
    alter(lived.root, "log", (5).to_bytes(8, "big"), flip)
    said = found(lived, code=1)
    assert [(wrong["what"], wrong["position"]) for wrong in said["wrong"]] == [("log", 5)]
    assert "WRONG: the store is corrupt at position 5" in lived("verify", code=1).stdout
    alter(lived.root, "log", (5).to_bytes(8, "big"), flip)
    found(lived)
    alter(lived.root, "view", b"tag\0docker.io/library/busybox:1", lambda value: value[:-1] + b"\0")
    said = found(lived, code=1)
    assert said["wrong"][0]["position"] == 5
    assert "view entry" in said["wrong"][0]["why"]
    (lived.root / "log").rename(lived.root / "log.away")
    assert "has no log" in lived("verify", code=1).stdout
    shutil.rmtree(lived.root / "log", ignore_errors=True)
    (lived.root / "log.away").rename(lived.root / "log")
    log = open_log(lived.root / "log")
    log.rebuild()
    log.close()
    found(lived)


@pytest.mark.long
def test_a_seal_proves_what_the_chain_alone_can_not(lived: Cli, tmp_path: Path) -> None:
    """A history that was written anew is consistent in itself, and not the one that was sealed."""
    lived("rm", "over")
    key, seal = tmp_path / "key", tmp_path / "seal"
    lived("keygen", os.fspath(key))
    lived("seal", "--key", os.fspath(key), "-o", os.fspath(seal))
    options = ("--seal", os.fspath(seal), "--key", os.fspath(key) + ".pub")
    lived("run", "--rm", "busybox:1", "true")
    assert found(lived, *options)["seal"]["position"] == json.loads(seal.read_text())["position"]
    assert "holds: nothing up to position" in lived("verify", *options).stdout
    compacted = json.loads(lived("compact", "--before", "now", "--json").stdout)
    archive = f"{compacted['directory']}/{compacted['archive']}"
    said = found(lived, *options, code=1)
    assert "moved to an archive" in said["wrong"][0]["why"]
    said = found(lived, *options, archive)
    assert (said["archives"]["last"], said["seal"]["key"]) == (
        compacted["last"],
        json.loads(seal.read_text())["public_key"],
    )
    other = tmp_path / "other"
    lived("keygen", os.fspath(other))
    said = found(lived, "--seal", os.fspath(seal), "--key", f"{other}.pub", archive, code=1)
    assert "it was made with the key" in said["wrong"][0]["why"]
    seal.write_text(seal.read_text().replace('"position":', '"position":1'))
    assert "the seal does not hold" in found(lived, *options, archive, code=1)["wrong"][0]["why"]
    assert "--seal and --key go together" in lived("verify", "--seal", os.fspath(seal), code=2).stderr


@pytest.mark.long
def test_archives_that_do_not_fit_are_told(lived: Cli, tmp_path: Path) -> None:
    lived("rm", "over")
    first = json.loads(lived("compact", "--before", "5", "--json").stdout)
    second = json.loads(lived("compact", "--before", "now", "--json").stdout)
    files = [f"{each['directory']}/{each['archive']}" for each in (first, second)]
    assert found(lived, *files)["archives"]["last"] == second["last"]
    assert "give all of them, in order" in lived("verify", files[0], code=1).stderr
    assert "the history begins earlier" in found(lived, files[1], code=1)["wrong"][0]["why"]
    damaged = tmp_path / "damaged"
    content = bytearray(Path(files[0]).read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert whats(found(lived, os.fspath(damaged), files[1], code=1)) == ["proof"]


@pytest.mark.long
def test_what_the_machine_says_otherwise_is_told(lived: Cli) -> None:
    """A process that is gone, files that are missing, files that nobody knows."""
    identifier = lived("run", "-d", "--name", "web", "busybox:1", "sleep", "1000").stdout.strip()
    found(lived)
    paths = locate(lived.root)
    engine, keeper = lived.engines(), int((paths.run / "keeper.lock").read_text())
    [state] = json.loads(lived("inspect", "web").stdout)
    for pid in (*engine, keeper, state["State"]["Pid"]):
        os.kill(pid, signal.SIGKILL)
    layer = next(paths.layers.iterdir())
    layer.rename(layer.with_name("0" * 64))
    (paths.containers / ("f" * 64)).mkdir()
    over = json.loads(lived("log", "--json", "over").stdout.splitlines()[0])["stream"].partition("/")[2]
    (paths.containers / over).rename(paths.root / "away")
    said = found(lived, code=1)
    assert {(wrong["what"], wrong["key"]) for wrong in said["wrong"]} == {
        ("process", identifier),
        ("directory", over),
        ("directory", "f" * 64),
        ("layer", f"sha256:{layer.name}"),
        ("layer", f"sha256:{'0' * 64}"),
    }
    assert "the log has it running as process" in lived("verify", code=1).stdout
    found(lived, "--no-host")
    layer.with_name("0" * 64).rename(layer)
    (paths.root / "away").rename(paths.containers / over)
    lived("ps")  # an engine opens the store, and brings the two to agree
    found(lived)
    lived("rm", "over", "web")
