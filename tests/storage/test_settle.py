"""Layers unpacked alone and settled are what unpacking on a mounted overlay would have made of them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.events.errors import BadLayer, HostError, ImageInvalid
from lading.storage.linux import MNT_DETACH, mount, umount2
from lading.storage.settle import Settled, settle
from lading.storage.trees import measure, remove_tree
from lading.storage.unpack import Unpacked, unpack

END = bytes(1024)


class Moves:
    """What is told to a split, and a place to spill into."""

    def __init__(self, spill: Path) -> None:
        self.moves: list[tuple[bytes, bytes]] = []
        self.spilled: list[bytes] = []
        self._spill = spill

    def moved(self, path: bytes, to: bytes) -> None:
        self.moves.append((path, to))

    def spill(self, path: bytes, parent: int, name: bytes) -> None:
        os.rename(name, os.fsencode(self._spill) + b"/%d" % len(self.spilled), src_dir_fd=parent)
        self.spilled.append(path)


class Stack:
    """Layers in directories, each settled on those before it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layers: list[Path] = []
        self.settled: Settled | None = None
        (base / "spill").mkdir()
        self.moves = Moves(base / "spill")

    def add(self, *pieces: bytes, **kw: Any) -> Unpacked:
        tree = self.base / f"layer{len(self.layers)}"
        tree.mkdir()
        made = unpack(io.BytesIO(b"".join(pieces) + END), tree, lower_links=True)
        self.settled = settle(
            tree,
            self.layers[::-1],
            made.implied,
            made.borrowed,
            opaque_root=made.opaque_root,
            moves=self.moves,
            **kw,
        )
        assert self.settled.usage == measure(tree)
        self.layers.append(tree)
        return made

    def at(self, name: str) -> Path:
        """In the top layer."""
        return self.layers[-1] / name

    @contextmanager
    def mounted(self, layers: list[Path]) -> Iterator[Path]:
        """The merged view of ``layers``, lowest first, writable."""
        for name in ("merged", "upper", "work"):
            (self.base / name).mkdir()
        options = f"lowerdir={':'.join(str(each) for each in layers[::-1])}"
        options += f",upperdir={self.base}/upper,workdir={self.base}/work"
        mount(b"overlay", os.fsencode(self.base / "merged"), b"overlay", 0, options.encode())
        try:
            yield self.base / "merged"
        finally:
            umount2(os.fsencode(self.base / "merged"), MNT_DETACH)
            self.remove("merged", "upper", "work")

    def remove(self, *names: str) -> None:
        fd = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in names:
                remove_tree(fd, name.encode())
        finally:
            os.close(fd)


@pytest.fixture
def stack(tmpfs: Callable[[str], Path]) -> Stack:
    return Stack(tmpfs("size=64m"))


def test_an_implied_directory_is_like_the_one_below(stack: Stack, tar: Any) -> None:
    stack.add(
        tar.d(b"a", 0o1777, uid=5, gid=6, mtime=77),
        tar.x((b"SCHILY.xattr.user.k", b"v")),
        tar.d(b"a/b", 0o2700, uid=7, mtime=88),
    )
    made = stack.add(tar.f(b"a/b/c/f", b"x"))
    assert made.implied == (b"a", b"a/b", b"a/b/c")
    found = stack.at("a").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o1777, 5, 6, 77)
    found = stack.at("a/b").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime) == (0o2700, 7, 88)
    assert os.getxattr(stack.at("a/b"), "user.k") == b"v"
    found = stack.at("a/b/c").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime) == (0o755, 0, 0)


def test_the_topmost_layer_that_shows_a_directory_counts(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"a", 0o700), tar.d(b"b", 0o700), tar.d(b"c", 0o700), tar.d(b"c/d", 0o700))
    stack.add(tar.d(b"a", 0o711), tar.f(b".wh.b"), tar.d(b"c", 0o722), tar.f(b"c/.wh..wh..opq"))
    stack.add(tar.f(b"a/f"), tar.f(b"b/f"), tar.f(b"c/d/f"))
    modes = [stat.S_IMODE(stack.at(name).stat().st_mode) for name in ("a", "b", "c", "c/d")]
    assert modes == [0o711, 0o755, 0o722, 0o755]


def test_an_entry_that_comes_later_makes_a_directory_its_own(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"a", 0o700))
    made = stack.add(tar.f(b"a/f"), tar.d(b"a", 0o750, mtime=5))
    assert made.implied == ()
    assert stat.S_IMODE(stack.at("a").stat().st_mode) == 0o750


def test_what_is_under_a_symlink_below_goes_where_it_leads(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"run", 0o711, mtime=9), tar.d(b"var", 0o755), tar.s(b"var/run", b"/run"))
    stack.add(tar.f(b"var/run/x", b"1"), tar.f(b"var/run/deep/y", b"2"))
    assert not os.path.lexists(stack.at("var/run"))
    assert stack.at("run/x").read_bytes() == b"1"
    assert stack.at("run/deep/y").read_bytes() == b"2"
    found = stack.at("run").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o711, 9)
    assert sorted(stack.moves.moves) == [(b"var/run/deep", b"run/deep"), (b"var/run/x", b"run/x")]


def test_links_that_lead_to_links_and_to_nothing(stack: Stack, tar: Any) -> None:
    links = tar.s(b"a", b"b"), tar.s(b"b", b"c/../../d/e"), tar.s(b"m/n", b"../a")
    stack.add(tar.d(b"c"), tar.d(b"m", 0o700), *links)
    stack.add(tar.f(b"a/f", b"1"), tar.f(b"b/g", b"2"), tar.f(b"m/n/h", b"3"))
    assert sorted(os.listdir(stack.at("d/e"))) == ["f", "g", "h"]
    assert sorted(os.listdir(stack.layers[-1])) == ["d", "m"]
    assert stat.S_IMODE(stack.at("m").stat().st_mode) == 0o700


@pytest.mark.parametrize("texts", [(b"a", b"b"), (b"a/x", b"b"), (b"b", b"a"), (b"b/c", b"a/d")])
def test_links_that_never_end_are_refused(stack: Stack, tar: Any, texts: tuple[bytes, bytes]) -> None:
    stack.add(tar.s(b"a", texts[0]), tar.s(b"b", texts[1]))
    with pytest.raises(BadLayer, match="symlink"):
        stack.add(tar.f(b"a/f"))


def test_a4_whiteouts_through_a_link_to_the_root(stack: Stack, tar: Any) -> None:
    stack.add(tar.s(b"l", b"/"), tar.f(b"y"))
    stack.add(tar.f(b"l/tmp/x", b"1"), tar.f(b"l/.wh.y"))
    assert sorted(os.listdir(stack.layers[-1])) == ["tmp", "y"]
    assert stat.S_ISCHR(stack.at("y").lstat().st_mode)
    assert stack.settled is not None
    assert not stack.settled.opaque_root
    stack.add(tar.f(b"l/tmp/x", b"1"), tar.f(b"l/.wh.y"), tar.f(b"l/.wh..wh..opq"))
    assert stack.settled.opaque_root


def test_a8_whiteouts_through_links_hide_where_they_lead(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"etc"), tar.f(b"etc/passwd"), tar.s(b"l", b"/etc"), tar.s(b"dead", b"/nonexist"))
    stack.add(tar.f(b"l/.wh.passwd"), tar.f(b"dead/.wh.x"))
    assert stat.S_ISCHR(stack.at("etc/passwd").lstat().st_mode)
    assert stat.S_ISCHR(stack.at("nonexist/x").lstat().st_mode)
    stack.add(tar.f(b"l/.wh..wh..opq"), tar.f(b"l/new"))
    assert os.getxattr(stack.at("etc"), "trusted.overlay.opaque") == b"y"
    assert os.listdir(stack.at("etc")) == ["new"]


def test_both_places_are_merged_and_the_direct_path_stays(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"run", 0o700), tar.s(b"l", b"run"))
    stack.add(
        tar.f(b"run/f", b"direct"),
        tar.f(b"run/.wh.gone"),
        tar.f(b"run/d/one", b"1"),
        tar.f(b"run/.wh.e"),
        tar.f(b"l/f", b"linked"),
        tar.f(b"l/.wh.f"),
        tar.f(b"l/gone", b"back"),
        tar.d(b"l/d", 0o711),
        tar.f(b"l/d/two", b"2"),
        tar.f(b"l/e/new", b"3"),
        tar.f(b"l/.wh.d"),
    )
    assert stack.at("run/f").read_bytes() == b"direct"
    assert stack.at("run/gone").read_bytes() == b"back"
    assert sorted(os.listdir(stack.at("run/d"))) == ["one", "two"]
    assert stat.S_IMODE(stack.at("run/d").stat().st_mode) == 0o711
    assert os.getxattr(stack.at("run/d"), "trusted.overlay.opaque") == b"y"
    assert os.getxattr(stack.at("run/e"), "trusted.overlay.opaque") == b"y"
    assert os.listdir(stack.layers[-1]) == ["run"]


def test_what_loses_its_place_is_spilled(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"run"), tar.s(b"l", b"run"))
    stack.add(tar.f(b"run/f", b"direct"), tar.f(b"l/f", b"linked"))
    assert stack.moves.spilled == [b"l/f"]
    assert (stack.base / "spill/0").read_bytes() == b"linked"


def test_a_link_to_where_it_is_itself(stack: Stack, tar: Any) -> None:
    stack.add(tar.s(b"l", b"."))
    stack.add(tar.f(b"l/l/l/f", b"x"))
    assert os.listdir(stack.layers[-1]) == ["f"]
    with pytest.raises(BadLayer, match="replace the symlink"):
        stack.add(tar.f(b"l/l", b"x"))


def test_a_file_on_the_way_is_an_error(stack: Stack, tar: Any) -> None:
    stack.add(tar.s(b"l", b"f/x"), tar.f(b"f"))
    with pytest.raises(BadLayer, match="not a directory"):
        stack.add(tar.f(b"l/g"))


def test_times_of_directories_survive(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"run"), tar.s(b"d/l", b"/run"))
    stack.add(tar.d(b"d", mtime=11), tar.d(b"run", mtime=12), tar.f(b"d/l/f"), tar.d(b"./", mtime=13))
    assert [stack.at(name).stat().st_mtime for name in ("d", "run", ".")] == [11, 12, 13]


def test_hard_links_to_lower_files_are_copies(stack: Stack, tar: Any) -> None:
    stack.add(
        tar.x((b"SCHILY.xattr.user.k", b"v")),
        tar.f(b"bin/f", b"x" * 70000, mode=0o4711, uid=3, mtime=5),
        tar.s(b"bin/s", b"f"),
        tar.s(b"b", b"/bin"),
        tar.header(b"bin/n", b"3", major=1, minor=3),
    )
    stack.add(
        tar.lnk(b"one", b"bin/f"),
        tar.lnk(b"two", b"/b/f"),
        tar.lnk(b"s", b"bin/s"),
        tar.lnk(b"n", b"bin/n"),
        tar.lnk(b"b/three", b"one"),
        tar.lnk(b"four", b"bin/f"),
        tar.f(b"four", b"mine"),
    )
    found = stack.at("one").stat()
    assert stack.at("one").read_bytes() == b"x" * 70000
    assert (found.st_mode, found.st_uid, found.st_mtime, found.st_nlink) == (stat.S_IFREG | 0o4711, 3, 5, 3)
    assert os.getxattr(stack.at("one"), "user.k") == b"v"
    assert found.st_ino == stack.at("two").stat().st_ino == stack.at("bin/three").stat().st_ino
    assert os.readlink(stack.at("s")) == "f"
    assert stat.S_ISCHR(stack.at("n").stat().st_mode)
    assert stack.at("four").read_bytes() == b"mine"


@pytest.mark.parametrize("hide", [b".wh.f", b".wh..wh..opq"])
def test_hard_links_to_what_is_hidden_or_missing_are_refused(stack: Stack, tar: Any, hide: bytes) -> None:
    stack.add(tar.f(b"f"), tar.d(b"d"), tar.f(b"e"))
    for pieces in ([tar.f(hide), tar.lnk(b"h", b"f")], [tar.lnk(b"h", b"none")], [tar.lnk(b"h", b"d")]):
        with pytest.raises(BadLayer, match="hard link"):
            stack.add(*pieces)
        stack.remove("layer1")


def test_settling_reaches_nothing_outside(place: Any, tar: Any, tmp_path: Path) -> None:
    out = os.fsencode(place.victim)
    for text in (out, b"../" * 12 + out[1:], b"/proc/self/root" + out, b"../victim"):
        for entry in (
            tar.f(b"l/file", b"x"),
            tar.f(b"l/.wh.file"),
            tar.f(b"l/.wh..wh..opq"),
            tar.lnk(b"h", b"l/file"),
        ):
            lower = tmp_path / "lower"
            lower.mkdir()
            unpack(io.BytesIO(tar.s(b"l", text) + END), lower)
            made = unpack(io.BytesIO(entry + END), place.root, lower_links=True)
            try:
                settle(place.root, [lower], made.implied, made.borrowed)
            except ImageInvalid:
                assert entry == tar.lnk(b"h", b"l/file")
            place.check()
            place.refresh()
            (lower / "l").unlink()
            lower.rmdir()


def test_stop_is_asked_before_each_and_what_it_raises_goes_through(stack: Stack, tar: Any) -> None:
    stack.add(tar.d(b"a"), tar.f(b"f"))
    calls = iter(range(4))

    def stop() -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stack.add(tar.f(b"a/b/x"), tar.lnk(b"one", b"f"), tar.lnk(b"two", b"f"), stop=stop)
    assert os.listdir(stack.base / "layer1/a") == ["b"]
    assert sorted(os.listdir(stack.base / "layer1")) == ["a", "one"]


@pytest.mark.slow
def test_many_directories_under_one_link_take_no_time(stack: Stack, tar: Any) -> None:
    stack.add(tar.s(b"l", b"to"), tar.d(b"to"))
    stack.add(*(tar.f(b"l/%d/x" % number) for number in range(3000)), tar.f(b"l/.wh.w"))
    assert len(os.listdir(stack.at("to"))) == 3001


NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
TEXTS = st.one_of(
    PATHS,
    PATHS.map(lambda path: b"/" + path),
    PATHS.map(lambda path: b"../" + path),
    st.sampled_from([b"/", b"."]),
)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(PATHS, TEXTS), max_size=4),
    st.lists(PATHS, max_size=3),
    st.lists(st.tuples(PATHS, st.sampled_from([b"f", b"g"])), min_size=1, max_size=5),
)
def test_the_merged_view_is_that_of_unpacking_on_a_mounted_overlay(
    stack: Stack,
    tar: Any,
    links: list[tuple[bytes, bytes]],
    directories: list[bytes],
    files: list[tuple[bytes, bytes]],
) -> None:
    lower = b"".join(
        [*(tar.d(path, 0o711, uid=4) for path in directories), *(tar.s(path, text) for path, text in links)]
    )
    upper = b"".join(tar.f(path + b"/" + name, b"same") for path, name in files)
    try:
        try:
            stack.add(lower)
        except ImageInvalid:
            return
        with stack.mounted(stack.layers) as merged:
            try:
                unpack(io.BytesIO(upper + END), merged)
            except (ImageInvalid, HostError):
                expected = None
            else:
                expected = tar.snapshot(merged, times=False)
        try:
            stack.add(upper)
        except ImageInvalid:
            assert expected is None
            return
        if expected is not None:
            with stack.mounted(stack.layers) as merged:
                assert tar.snapshot(merged, times=False) == expected
    finally:
        stack.remove("layer0", "layer1", "spill")
        stack.__init__(stack.base)  # type: ignore[misc]
