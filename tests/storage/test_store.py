"""The store: whose it is, and who is told to stay out."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from logbook import BORN, told

from lading.events.errors import (
    HostError,
    InUse,
    StoreCorrupt,
    StoreNewer,
)
from lading.storage import store
from lading.storage.store import open_store, read_log


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RUN", tmp_path / "run")


@pytest.mark.usefixtures("run_directory")
def test_a_store_is_its_owners_alone(tmp_path: Path) -> None:
    """Directories 0700 and files 0600, whatever the umask; beneath a root that nobody else can enter."""
    old = os.umask(0)
    try:
        opened = open_store(tmp_path / "root")
        told(opened.log, BORN)
        opened.close()
    finally:
        os.umask(old)
    root = tmp_path / "root"
    modes = {where.relative_to(root).as_posix(): stat.S_IMODE(where.stat().st_mode) for where in root.rglob("*")}
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    files = ("lock", "log/data.mdb", "log/lock.mdb")
    assert {name: oct(modes[name]) for name in files} == dict.fromkeys(files, "0o600")
    ours = ("log", "blobs", "blobs/sha256", "layers", "splits", "containers", "staging", "trash")
    assert {name: oct(modes[name]) for name in ours} == dict.fromkeys(ours, "0o700")


@pytest.mark.slow
@pytest.mark.usefixtures("run_directory")
def test_a_store_has_one_owner_and_says_who(tmp_path: Path) -> None:
    """A second opener, of this process or another, is told the owner's pid; afterwards the store is free."""
    opened = open_store(tmp_path / "root")
    with pytest.raises(InUse) as refused:
        open_store(tmp_path / "root")
    assert refused.value.users == (f"process {os.getpid()}",)
    script = (
        "import sys; from pathlib import Path; from lading.storage.store import open_store\n"
        "try: open_store(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "root"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(
        f"InUse store {tmp_path / 'root'} is in use by process {os.getpid()}; talk to it"
    )
    opened.close()
    open_store(tmp_path / "root").close()


@pytest.mark.usefixtures("run_directory")
@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"store": "x", "format": 3}', StoreNewer),
        *(
            (text, StoreCorrupt)
            for text in ("", "{", "[]", "{}", '{"store": "x"}', '{"store": 1, "format": 1}', "1")
        ),
        ('{"store": "x", "format": true}', StoreCorrupt),
        ("\udcff", StoreCorrupt),
    ],
)
def test_an_identity_that_cannot_be_read_is_refused(tmp_path: Path, content: str, error: type) -> None:
    opened = open_store(tmp_path / "root")
    opened.close()
    (tmp_path / "root" / "store.json").write_text(content, errors="surrogateescape")
    for opener in (open_store, read_log):
        with pytest.raises(error):
            opener(tmp_path / "root")


@pytest.mark.usefixtures("run_directory")
def test_what_the_host_refuses_is_a_host_error(tmp_path: Path) -> None:
    """No parent; a file instead of the root, or of a directory in it; no store to read."""
    (tmp_path / "file").write_text("")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "log").write_text("")
    for root in ("none/root", "file", "root"):
        with pytest.raises(HostError):
            open_store(tmp_path / root)
    with pytest.raises(HostError, match="no store is there"):
        read_log(tmp_path / "root")
