"""What a container's own layers changed, found by looking at them, against what two whole listings would tell."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.storage.changes import changes
from lading.storage.merged import OPAQUE_XATTR
from lading.storage.overlay import mount_overlay, unmount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts need root")


def found(own: Sequence[Path], base: Sequence[Path]) -> list[str]:
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            return fd

        told = changes([opened(path) for path in own], [opened(path) for path in base])
        return [f"{'CAD'[each.kind.value]} {os.fsdecode(each.path)}" for each in told]


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def opaque(path: Path) -> None:
    path.mkdir(exist_ok=True)
    os.setxattr(path, OPAQUE_XATTR, b"y")


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two layers of a container, the upper one first, and one of its image."""
    upper, middle, base = tmp_path / "upper", tmp_path / "middle", tmp_path / "base"
    for path in (upper, middle, base):
        path.mkdir()
    (base / "d" / "e").mkdir(parents=True)
    for name in ("d/a", "d/b", "d/e/c", "top"):
        (base / name).write_text("base")
    return upper, middle, base


def test_each_kind(layers: tuple[Path, Path, Path]) -> None:
    upper, _, base = layers
    (upper / "d").mkdir()
    (upper / "d" / "new").write_text("")
    whiteout(upper / "d" / "a")
    (upper / "top").write_text("longer than before")
    assert found([upper], [base]) == ["C /d", "D /d/a", "A /d/new", "C /top"]


def test_a_directory_alone_is_no_change_unless_its_mode_is(layers: tuple[Path, Path, Path]) -> None:
    upper, _, base = layers
    (upper / "d").mkdir(mode=0o755)
    assert found([upper], [base]) == []
    (upper / "d").chmod(0o700)
    assert found([upper], [base]) == ["C /d"]


def test_what_was_copied_up_and_not_changed_is_no_change(layers: tuple[Path, Path, Path]) -> None:
    upper, _, base = layers
    (upper / "top").write_text("base")
    was = (base / "top").stat().st_mtime_ns
    os.utime(upper / "top", ns=(was, was))
    assert found([upper], [base]) == []
    os.chown(upper / "top", 1, 1)
    assert found([upper], [base]) == ["C /top"]


def test_an_opaque_directory_hides_what_it_has_not(layers: tuple[Path, Path, Path]) -> None:
    upper, _, base = layers
    opaque(upper / "d")
    (upper / "d" / "b").write_text("other")
    (upper / "d" / "new").write_text("")
    assert found([upper], [base]) == ["C /d", "D /d/a", "C /d/b", "D /d/e", "A /d/new"]


def test_a_directory_becomes_a_file_and_a_file_a_directory(layers: tuple[Path, Path, Path]) -> None:
    upper, _, base = layers
    (upper / "d").write_text("")
    (upper / "top").mkdir()
    (upper / "top" / "x").write_text("")
    assert found([upper], [base]) == ["C /d", "C /top", "A /top/x"]


def test_own_layers_are_seen_through_one_another(layers: tuple[Path, Path, Path]) -> None:
    upper, middle, base = layers
    (middle / "d").mkdir()
    (middle / "d" / "one").write_text("")
    (middle / "d" / "two").write_text("")
    whiteout(middle / "d" / "a")
    (upper / "d").mkdir()
    whiteout(upper / "d" / "two")
    (upper / "d" / "a").write_text("again, and longer")
    assert found([upper, middle], [base]) == ["C /d", "C /d/a", "A /d/one"]
    opaque(upper / "d")
    assert found([upper, middle], [base]) == ["C /d", "C /d/a", "D /d/b", "D /d/e"]


def test_of_nothing_there_is_nothing(layers: tuple[Path, Path, Path]) -> None:
    assert found([], [layers[2]]) == []
    assert found([layers[0]], [layers[2]]) == []


Steps = list[tuple[str, str]]
NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/b", "d/d", "d/d/a", "d/d/b"])
STEPS = st.lists(st.tuples(st.sampled_from(["write", "mkdir", "remove", "chmod"]), NAMES), max_size=8)


def work(root: Path, steps: Steps) -> None:
    for number, (what, name) in enumerate(steps):
        path = root / name
        with contextlib.suppress(OSError):
            match what:
                case "write":
                    path.write_text("x" * (number + 2))
                case "mkdir":
                    path.mkdir()
                case "chmod":
                    path.chmod(0o700 + number)
                case "remove" if path.is_dir():
                    remove(path)
                case _:
                    path.unlink()


def remove(path: Path) -> None:
    for child in path.iterdir():
        remove(child) if child.is_dir() else child.unlink()
    path.rmdir()


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    seen = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        size = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
        seen[f"/{path.relative_to(root)}"] = (status.st_mode, *size)
    return seen


def expected(old: dict[str, tuple[int, int, int]], new: dict[str, tuple[int, int, int]]) -> set[str]:
    told = set()
    for path in old.keys() | new.keys():
        above = path.rpartition("/")[0]
        if path not in new:
            # what was in a directory that is gone, or is none any more, goes with it
            if not above or (above in new and stat.S_ISDIR(new[above][0])):
                told.add(f"D {path}")
        elif path not in old:
            told.add(f"A {path}")
        elif old[path] != new[path]:
            told.add(f"C {path}")
    for line in list(told):
        path = line[2:].rpartition("/")[0]
        while path:
            if f"A {path}" not in told:
                told.add(f"C {path}")
            path = path.rpartition("/")[0]
    return told


@pytest.mark.slow
@settings(max_examples=40)
@given(first=STEPS, second=STEPS, third=STEPS)
def test_it_is_what_two_listings_tell(
    tmp_path_factory: pytest.TempPathFactory, first: Steps, second: Steps, third: Steps
) -> None:
    """A real overlay is worked on, twice, the second time on what the first left as a layer."""
    where = tmp_path_factory.mktemp("overlay")
    base, lower, middle, upper, work_1, work_2, root = (
        where / name for name in ("base", "lower", "middle", "upper", "w1", "w2", "root")
    )
    for path in (base, lower, middle, upper, work_1, work_2, root):
        path.mkdir()
    work(base, first)
    with mounted(root, [base, lower], middle, work_1):
        before = listing(root)
        work(root, second)
        assert sorted(found([middle], [base, lower])) == sorted(expected(before, listing(root)))
    with mounted(root, [middle, base, lower], upper, work_2):
        work(root, third)
        assert sorted(found([upper, middle], [base, lower])) == sorted(expected(before, listing(root)))


@contextlib.contextmanager
def mounted(root: Path, lower: list[Path], upper: Path, work_: Path) -> Iterator[None]:
    mount_overlay(root, lower, upper, work_)
    try:
        yield
    finally:
        unmount(root)
