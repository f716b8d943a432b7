"""Keys and seals as their user makes them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cli_program import Cli
from pasts import STORE, make_store, some_past

from lading.storage.seal import check_seal, parse_seal
from lading.storage.store import read_log

pytestmark = pytest.mark.slow


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path / "store")
    make_store(made.root, some_past())
    return made


def test_a_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    lading, key = Cli(tmp_path / "none"), tmp_path / "k"
    assert lading("keygen", os.fspath(key)).stdout == f"{key}.pub\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"BEGIN PRIVATE KEY" in key.read_bytes()
    assert b"BEGIN PUBLIC KEY" in (tmp_path / "k.pub").read_bytes()
    before = key.read_bytes()
    assert "never overwritten" in lading("keygen", os.fspath(key), code=1).stderr
    assert key.read_bytes() == before
    key.unlink()
    assert "never overwritten" in lading("keygen", os.fspath(key), code=1).stderr, "the public half is there"
    assert not key.exists()
    key.symlink_to(tmp_path / "elsewhere")
    lading("keygen", os.fspath(key), code=1)
    assert not (tmp_path / "elsewhere").exists()


def test_a_seal_of_the_store_holds(cli: Cli, tmp_path: Path) -> None:
    key, where = os.fspath(tmp_path / "k"), tmp_path / "s"
    cli("keygen", key)
    assert cli("seal", "--key", key, "-o", os.fspath(where)).stdout == f"sealed 10 records in {where}\n"
    printed = cli("seal", "--key", key).stdout.encode()
    log = read_log(cli.root)
    try:
        for content in (where.read_bytes(), printed):
            held = check_seal(parse_seal(content), Path(f"{key}.pub").read_bytes(), log, STORE)
            assert held.head == 10
    finally:
        log.close()
    assert "never overwritten" in cli("seal", "--key", key, "-o", os.fspath(where), code=1).stderr


@pytest.mark.parametrize("content", [None, "", "nonsense"])
def test_what_is_no_key_is_one_line(cli: Cli, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "k").write_text(content)
    done = cli("seal", "--key", os.fspath(tmp_path / "k"), code=1)
    assert done.stderr.startswith("lading: ")
    assert done.stderr.count("\n") == 1


def test_no_store_is_one_line(tmp_path: Path) -> None:
    key = os.fspath(tmp_path / "k")
    Cli(tmp_path / "none")("keygen", key)
    assert "no store is there" in Cli(tmp_path / "none")("seal", "--key", key, code=1).stderr
