"""Settling an unpacked layer on the layers below it, for what could not be known while it was unpacked alone.

Where an archive has no entry for a directory, the directory's metadata is what the layers below say, and if they
have a symlink there (``/var/run -> /run`` under a layer with ``var/run/x``), then what the archive has in it
belongs where the link leads. That is what unpacking on a mounted overlay, as containerd does it, comes to; here
it is done after the fact:

* a directory below: its owner, mode, ``user.*`` attributes and time are copied to the implied one;
* a symlink below: what is in the implied directory is moved to where the link leads in the merged view, and the
  implied directory is removed, so that the link shows again. Missing directories on the way are made. Where both
  places have something of this layer under one name, directories are merged, whiteouts give way, and of anything
  else what was archived under the direct path stays;
* anything else below, or nothing: it stays as it is.

Hard links to what only a lower layer has are made of a copy, one for each file: a link can't lead out of a layer.

Everything is resolved here, one name at a time beneath a layer's descriptor, with the merged root as the root:
nothing outside the layers can be reached, and nothing but ``tree`` is changed. A crash leaves the tree half
settled; it is not visible yet and is to be thrown away, as after any error.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn, Protocol

import attrs

from lading.events.errors import BadLayer, HostError
from lading.storage.beneath import is_whiteout
from lading.storage.causes import unpacking_error
from lading.storage.copying import copy_directory_metadata, copy_entry
from lading.storage.linux import rename_noreplace
from lading.storage.merged import OPAQUE_XATTR, find, is_opaque, open_directory, split_path
from lading.storage.trees import Usage, measure_tree, printable, remove_tree
from lading.storage.treewriter import Borrowed

__all__ = ["Moves", "Settled", "settle"]

_MAX_LINKS: Final = 40  # the kernel's own limit
_MAX_NAMES: Final = 4096
_MAX_DEPTH: Final = 64


class Moves(Protocol):
    """Told where the contents of the layer's archive went (:mod:`lading.storage.split`); paths are real ones."""

    def moved(self, path: bytes, to: bytes, /) -> None:
        """What was at ``path``, or beneath it, is at ``to`` in the tree."""
        ...

    def spill(self, path: bytes, parent: int, name: bytes, /) -> None:
        """Move ``name`` of directory ``parent``, which is at ``path``, out of the tree."""
        ...


@attrs.frozen
class Settled:
    """What the tree takes on disk now, and whether it hides everything below its root."""

    usage: Usage
    opaque_root: bool


def settle(
    tree: Path | int,
    lowers: Sequence[Path | int],
    implied: Sequence[bytes],
    borrowed: Sequence[Borrowed] = (),
    *,
    opaque_root: bool = False,
    moves: Moves | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Settled:
    """Settle ``tree`` on ``lowers``, topmost first and without those that an opaque root above them hides.

    ``implied``, ``borrowed`` and ``opaque_root`` are those of ``Unpacked``. Call it only if there is anything in
    the first two. ``stop`` is called before each directory and link; what it raises goes through. Raises
    ``BadLayer`` where an entry leads nowhere in the merged view, ``HostError`` when the machine refuses. Blocks;
    nothing is synced.
    """
    with contextlib.ExitStack() as stack:
        layers = [_root(stack, each) for each in ((tree,) if opaque_root else (tree, *lowers))]
        work = _Settling(layers, implied, borrowed, opaque_root, moves, stop)
        try:
            work.settle_directories()
            work.settle_links()
        except OSError as error:
            raise unpacking_error(error, work.entry) from error
        return Settled(measure_tree(layers[0]), work.opaque_root)


def _root(stack: contextlib.ExitStack, layer: Path | int) -> int:
    try:
        fd = os.open(
            layer if isinstance(layer, Path) else b".",
            os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
            dir_fd=None if isinstance(layer, Path) else layer,
        )
    except OSError as error:
        raise HostError("open the layer", printable(os.fsencode(str(layer))), error.errno or 0) from error
    stack.callback(os.close, fd)
    return fd


class _Settling:
    """``layers``: root descriptors, the first of them the one to settle. ``entry``: what is being done, for
    errors."""

    def __init__(
        self,
        layers: list[int],
        implied: Sequence[bytes],
        borrowed: Sequence[Borrowed],
        opaque_root: bool,
        moves: Moves | None,
        stop: Callable[[], None],
    ) -> None:
        self.entry = b""
        self.opaque_root = opaque_root
        self._layers = layers
        self._tree = layers[0]
        self._pending = _Pending(implied)
        self._borrowed = borrowed
        self._moves = moves
        self._stop = stop
        self._places: dict[bytes, bytes] = {}  # directories whose contents went somewhere else
        self._following = b""
        self._depth = 0

    # directories

    def settle_directories(self) -> None:
        """Every implied directory, parents first; those that are made on the way as well."""
        while (path := self._pending.first()) is not None:
            self.entry = path
            self._stop()
            found = find(self._layers, path, below_first=True)
            if found is not None and stat.S_ISLNK(found.status.st_mode):
                self._follow(path)
                continue
            self._pending.discard(path)
            if found is not None and stat.S_ISDIR(found.status.st_mode):
                with _opened(found.layer, path) as below, _opened(self._tree, path) as own:
                    copy_directory_metadata(below, own)

    def _follow(self, path: bytes) -> None:
        """Move what is in the implied directory ``path`` to where the symlink below it leads."""
        target = self._resolve(path)  # while it is pending, which is how it is known to be a link
        if _within(target, path):
            self._bad("its path leads through a symlink to itself")
        self._pending.discard(path)
        self._make(target)
        self._following = path
        parent, name = split_path(path)
        with (
            _opened(self._tree, parent) as above,
            _kept_time(above),
            _opened(self._tree, target) as into,
            _kept_time(into),
        ):
            with _opened(self._tree, path) as source:
                self._merge(source, path, into, target)
            os.rmdir(name, dir_fd=above)

    def _merge(self, source: int, path: bytes, into: int, target: bytes) -> None:
        """Move everything in the directory ``source`` into the directory ``into``."""
        self._places[path] = target
        if is_opaque(source):
            self._hide_below(into, target)
        for name in os.listdir(source):
            self._merge_entry(os.fsencode(name), source, path, into, target)

    def _merge_entry(self, name: bytes, source: int, path: bytes, into: int, target: bytes) -> None:
        old, new = _join(path, name), _join(target, name)
        moving = os.lstat(name, dir_fd=source)
        if new == self._following:
            # The link leads to where it is itself: below/below is below again.
            if not stat.S_ISDIR(moving.st_mode):
                self._bad("it would replace the symlink that its own path leads through")
            self._pending.discard(old)
            self._merge_directory(name, source, old, into, target)
            return
        try:
            there = os.lstat(name, dir_fd=into)
        except FileNotFoundError:
            rename_noreplace(name, name, source_fd=source, target_fd=into)
            self._moved(old, new, stat.S_ISDIR(moving.st_mode))
            return
        if is_whiteout(moving):
            os.unlink(name, dir_fd=source)
            if stat.S_ISDIR(there.st_mode):
                with _opened(into, name) as both:
                    self._hide_below(both, new)
        elif is_whiteout(there):
            os.unlink(name, dir_fd=into)
            rename_noreplace(name, name, source_fd=source, target_fd=into)
            self._moved(old, new, stat.S_ISDIR(moving.st_mode))
            if stat.S_ISDIR(moving.st_mode):
                with _opened(into, name) as both:
                    self._hide_below(both, new)
        elif stat.S_ISDIR(moving.st_mode) and stat.S_ISDIR(there.st_mode):
            with _opened(source, name) as inner, _opened(into, name) as outer:
                if new in self._pending and old not in self._pending:
                    copy_directory_metadata(inner, outer)
                    self._pending.discard(new)
                self._pending.discard(old)
                with _kept_time(outer):
                    self._merge_directory(name, source, old, outer, new)
        else:
            self._discard(old, source, name, moving)

    def _merge_directory(self, name: bytes, source: int, path: bytes, into: int, target: bytes) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._bad(f"directories nested more than {_MAX_DEPTH} deep, at the end of a symlink and beside it")
        with _opened(source, name) as inner:
            self._merge(inner, path, into, target)
        os.rmdir(name, dir_fd=source)
        self._depth -= 1

    def _discard(self, path: bytes, parent: int, name: bytes, found: os.stat_result) -> None:
        directory = stat.S_ISDIR(found.st_mode)
        self._pending.take(path)
        if self._moves is not None and (directory or stat.S_ISREG(found.st_mode)):
            self._moves.spill(path, parent, name)
        elif directory:
            remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)

    def _moved(self, old: bytes, new: bytes, directory: bool) -> None:
        if self._moves is not None:
            self._moves.moved(old, new)
        if directory:
            self._places[old] = new
            for each in self._pending.take(old):
                self._pending.add(new + each[len(old) :])

    def _hide_below(self, fd: int, path: bytes) -> None:
        if path:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        else:
            self.opaque_root = True
            del self._layers[1:]

    def _make(self, path: bytes) -> None:
        """Make sure that the directory ``path`` is in this layer; what was missing is implied as well."""
        made: list[bytes] = []
        for name in path.split(b"/") if path else []:
            above, here = b"/".join(made), b"/".join((*made, name))
            made.append(name)
            with _opened(self._tree, above) as parent:
                opaque = False
                try:
                    found = os.lstat(name, dir_fd=parent)
                except FileNotFoundError:
                    pass
                else:
                    if stat.S_ISDIR(found.st_mode):
                        continue
                    if not is_whiteout(found):
                        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here)
                    opaque = True
                with _kept_time(parent):
                    if opaque:
                        os.unlink(name, dir_fd=parent)
                    os.mkdir(name, 0o755, dir_fd=parent)
                with _opened(parent, name) as own:
                    os.fchown(own, 0, 0)
                    os.fchmod(own, 0o755)
                    os.utime(own, ns=(0, 0))
                    if opaque:
                        os.setxattr(own, OPAQUE_XATTR, b"y")
                    else:
                        self._pending.add(here)

    # links

    def settle_links(self) -> None:
        """Every hard link to what this layer had not got when it was unpacked."""
        copies: dict[tuple[int, int], bytes] = {}
        for link in self._borrowed:
            self.entry = path = self._place(link.path)
            self._stop()
            parent, name = split_path(path)
            target_parent, target_name = split_path(link.target)
            real = _join(self._resolve(target_parent), target_name)
            found = find(self._layers, real)
            if found is None or stat.S_ISDIR(found.status.st_mode):
                shown = link.target[:200]
                self._bad(f"a hard link to {shown!r}, which is no file of this layer or of those below it")
            identity = found.status.st_dev, found.status.st_ino
            at_tree, at = (True, real) if found.layer == self._tree else (False, copies.get(identity, b""))
            with _opened(self._tree, parent) as into, _kept_time(into), contextlib.suppress(FileExistsError):
                if at:
                    above, last = split_path(at)
                    with _opened(self._tree, above) as source:
                        os.link(last, name, src_dir_fd=source, dst_dir_fd=into, follow_symlinks=False)
                elif not at_tree:
                    above, last = split_path(found.path)
                    with _opened(found.layer, above) as source:
                        copy_entry(source, last, found.status, into, name)
                    copies[identity] = path

    def _place(self, path: bytes) -> bytes:
        """Where something would be now that was at ``path`` before anything was moved."""
        for _ in range(_MAX_LINKS):
            at = len(path)
            while (at := path.rfind(b"/", 0, at)) > 0 and path[:at] not in self._places:
                pass
            if at <= 0:
                return path
            path = _join(self._places[path[:at]], path[at + 1 :])
        return path

    # the merged view

    def _resolve(self, path: bytes) -> bytes:
        """The real path in the merged view that ``path`` leads to; what is missing on the way is taken to be a
        directory that is still to be made."""
        todo = path.split(b"/")[::-1]
        real: list[bytes] = []
        links = names = 0
        while todo:
            name = todo.pop()
            names += 1
            if names > _MAX_NAMES:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            if name in (b"", b"."):
                continue
            if name == b"..":
                if real:
                    real.pop()
                continue
            here = b"/".join((*real, name))
            pending = here in self._pending
            found = find(self._layers, here, below_first=pending)
            if found is not None and stat.S_ISLNK(found.status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                above, last = split_path(found.path)
                with _opened(found.layer, above) as parent:
                    text = os.readlink(last, dir_fd=parent)
                todo += text.split(b"/")[::-1]
                if text.startswith(b"/"):
                    real.clear()
                continue
            if found is not None and not pending and not stat.S_ISDIR(found.status.st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            real.append(name)
        return b"/".join(real)

    def _bad(self, why: str) -> NoReturn:
        raise BadLayer(why, self.entry)


class _Pending:
    """The implied directories that are still to be looked at, in order."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        self._paths = sorted(set(paths))

    def __contains__(self, path: bytes) -> bool:
        at = bisect.bisect_left(self._paths, path)
        return at < len(self._paths) and self._paths[at] == path

    def first(self) -> bytes | None:
        """The first of them, before everything beneath it; None when there is none."""
        return self._paths[0] if self._paths else None

    def add(self, path: bytes) -> None:
        """Put ``path`` in."""
        if path not in self:
            bisect.insort(self._paths, path)

    def discard(self, path: bytes) -> None:
        """Leave ``path`` out, if it is in."""
        at = bisect.bisect_left(self._paths, path)
        if at < len(self._paths) and self._paths[at] == path:
            del self._paths[at]

    def take(self, path: bytes) -> list[bytes]:
        """Leave out ``path`` and everything beneath it: those that were in."""
        taken = [path] if path in self else []
        self.discard(path)
        start = bisect.bisect_left(self._paths, path + b"/")
        end = bisect.bisect_left(self._paths, path + b"0")  # the byte after a slash
        taken += self._paths[start:end]
        del self._paths[start:end]
        return taken


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _within(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")


@contextlib.contextmanager
def _opened(layer: int, path: bytes) -> Iterator[int]:
    fd = open_directory(layer, path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _kept_time(fd: int) -> Iterator[None]:
    """Its archive says what time the directory has, not what is done here."""
    before = os.fstat(fd).st_mtime_ns
    yield
    os.utime(fd, ns=(before, before))
