"""Reading what a container printed, over all the files that are kept, while it may be written and rotated.

A cursor holds the files open that it has still to read, up to ``AHEAD`` of them, so what it has seen of the files
can be read to the end although they are rotated away or removed meanwhile. Of what went before it was seen, the
next chunk tells by ``lost``.
"""

from __future__ import annotations

import bisect
import os
from collections import deque
from collections.abc import Iterator

import attrs

from lading.storage.output import BLOCK, Chunk, is_old, read_head, read_page
from lading.storage.outputfiles import CURRENT, OutputFile, open_kept

__all__ = ["AHEAD", "OutputCursor"]

AHEAD = 8
"""Files that a cursor keeps open at most. A deleted one takes its room on disk until it is read."""


class OutputCursor:
    """A place in the output whose files are in ``directory`` (a descriptor, which is the caller's to close).

    It begins before the oldest chunk that there is.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._files: deque[OutputFile] = deque()
        self._offset = 0
        self._lost = False
        self._skip = 0
        self._before = 0  # where the file before this one ended
        self._unchecked = False  # whether this one begins there is still to be seen
        self._old_open: set[int] = set()  # the streams that have an open line, in a file of the first format
        self._newest = -1  # the inode of the file that was the newest when files were last looked for
        self._find(everything=True)
        self._fresh = not self._files  # all that there will be was printed after this place was taken

    @property
    def position(self) -> int:
        """How much of the whole output is before this place, in bytes of files; comparable to the writer's."""
        if not self._files:
            return 0
        base = self._files[0].base
        return (self._before if base is None else base) + self._offset

    def close(self) -> None:
        """Close the files. Idempotent."""
        while self._files:
            self._files.popleft().close()

    def read(self) -> list[Chunk]:
        """The next chunks, at most a block; none at the end of what there is now."""
        if not self._files:
            self._find()
        while self._files:
            current = self._files[0]
            if current.base is None:
                current.look()
            page = read_page(current.fd, self._offset, old=current.old)
            self._offset = page.end
            if self._unchecked and page.end:
                self._lost, self._unchecked = self._lost or current.base != self._before, False
            if page.chunks:
                self._find()  # to have what comes next before it is rotated away
                chunks = _with_continues(page.chunks, self._old_open) if current.old else page.chunks
                return self._marked(chunks, page.skipped)
            if page.skipped:
                self._lost = True
            elif len(self._files) > 1:  # nothing comes to a file that has a newer one
                self._next()
            elif self._find():
                continue  # and what came to this one before the newer one was made is read first
            else:
                return []
        return []

    def seek_end(self) -> None:
        """Go to the end of what there is now."""
        while len(self._files) > 1:
            self._files.popleft().close()
        if self._files:
            self._offset = self._files[0].size
            self._find_old_open()

    def seek_time(self, since: int) -> None:
        """Pass over what is surely from before ``since`` (ns UTC), without reading it: whole blocks and files."""
        while len(self._files) > 1 and _latest(self._files[1].fd, 0, since) < since:
            self._files.popleft().close()
        if self._files and not is_old(self._files[0].fd):
            fd = self._files[0].fd
            blocks = range(1, -(-self._files[0].size // BLOCK))
            self._offset = BLOCK * bisect.bisect_left(
                blocks, since, key=lambda number: _latest(fd, number * BLOCK, since)
            )
        self._trim()

    def seek_tail(self, count: int, streams: frozenset[int], since: int = 0, until: int = 0) -> bool:
        """Go to where the last ``count`` lines of ``streams`` from ``since`` to ``until`` begin.

        False: there are not so many; then the cursor stays where it is. Reads from the end, no more than there is
        to pass over; files of the first format from their beginning.
        """
        if count == 0:
            self.seek_end()
            return True
        left = count
        for index in range(len(self._files) - 1, -1, -1):
            file = self._files[index]
            for chunk in _backwards(file, since):
                if chunk.stream not in streams or chunk.time < since or (until and chunk.time > until):
                    continue
                starts = chunk.data.count(b"\n", 0, -1) + (not chunk.continues)
                if starts < left:
                    left -= starts
                    continue
                for _ in range(index):
                    self._files.popleft().close()
                self._offset, self._skip = chunk.at, _nth_start(chunk.data, left)
                self._find_old_open()
                self._trim()
                return True
        self._trim()
        return False

    # -- the files ------------------------------------------------------------------------------------------

    def _find(self, *, everything: bool = False) -> bool:
        """Open what is newer than what is open, if there is any; whether there was."""
        if not everything:
            if len(self._files) >= AHEAD:
                self._trim()
                return False
            try:
                inode = os.stat(CURRENT, dir_fd=self._directory, follow_symlinks=False).st_ino
            except OSError:
                return False  # not there yet, in the middle of a rotation, or removed
            if inode == self._newest:
                if self._files:
                    self._files[-1].look()
                return False
        last = self._files[-1] if self._files else None
        if last is not None:
            last.look()
        found: list[OutputFile] = []
        known = {file.inode for file in self._files}
        first = True
        for file in open_kept(self._directory):
            if first:
                self._newest, first = file.inode, False
            if file.inode in known:
                file.close()
                if last is not None and file.inode == last.inode:
                    break
                continue
            if file.base is not None and last is not None and last.base is not None and file.base <= last.base:
                file.close()
                break
            known.add(file.inode)
            found.append(file)
        found.reverse()
        self._files.extend(found)
        if found and last is None and not everything and self._fresh:
            self._fresh, self._lost = False, bool(found[0].base)
        if not everything:
            self._trim()
        return bool(found)

    def _trim(self) -> None:
        """Close what is too far ahead; it is looked for again."""
        while len(self._files) > AHEAD:
            self._files.pop().close()
            self._newest = -1

    def _find_old_open(self) -> None:
        """What a reader from the beginning would know by now of the lines in a file of the first format."""
        self._old_open = set()
        if is_old(self._files[0].fd):
            for start, still_open in _old_pages(self._files[0].fd):
                if start > self._offset:
                    break
                self._old_open = set(still_open)
                chunks = [
                    chunk for chunk in read_page(self._files[0].fd, start).chunks if chunk.end <= self._offset
                ]
                _with_continues(chunks, self._old_open)

    def _next(self) -> None:
        """Go on to the next file."""
        done = self._files.popleft()
        self._before = (self._before if done.base is None else done.base) + self._offset
        self._unchecked = True
        done.close()
        self._offset = 0

    def _marked(self, chunks: list[Chunk], skipped: bool) -> list[Chunk]:
        if self._lost:
            chunks[0] = attrs.evolve(chunks[0], lost=True)
        if self._skip:
            first, self._skip, skip = chunks[0], 0, self._skip
            chunks[0] = attrs.evolve(first, data=first.data[skip:], continues=False, lost=False)
        self._lost = skipped
        return chunks


def _latest(fd: int, offset: int, since: int) -> int:
    """The greatest time before the block at ``offset``; of a damaged one, what the next ones tell at most."""
    size = os.fstat(fd).st_size
    while offset < size:
        head = read_head(fd, offset)
        if head is not None:
            return head.latest
        offset += BLOCK
    return since  # nothing is known: what is before it is not passed over


def _nth_start(data: bytes, left: int) -> int:
    """Where the ``left``-th line from the end begins in ``data``, which has as many, or its beginning is one."""
    at = len(data) - 1
    for _ in range(left):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _backwards(file: OutputFile, since: int) -> Iterator[Chunk]:
    """The chunks from the end to the beginning, or to where everything is from before ``since``."""
    if is_old(file.fd):
        for start, still_open in reversed(list(_old_pages(file.fd))):
            yield from reversed(_with_continues(read_page(file.fd, start).chunks, set(still_open)))
        return
    for block in range((file.size - 1) // BLOCK * BLOCK, -1, -BLOCK):
        yield from reversed(read_page(file.fd, block).chunks)
        head = read_head(file.fd, block)
        if head is not None and head.latest < since:
            return


def _old_pages(fd: int) -> Iterator[tuple[int, frozenset[int]]]:
    """Where the pages of a file of the first format begin, and which streams have an open line there."""
    start = 0
    still_open: set[int] = set()
    while True:
        yield start, frozenset(still_open)
        page = read_page(fd, start)
        if not page.chunks:
            return
        _with_continues(page.chunks, still_open)
        start = page.end


def _with_continues(chunks: list[Chunk], still_open: set[int]) -> list[Chunk]:
    """``chunks`` of the first format with ``continues`` found out; ``still_open``: before, and then after them."""
    known = []
    for chunk in chunks:
        known.append(attrs.evolve(chunk, continues=True) if chunk.stream in still_open else chunk)
        if chunk.data:
            (still_open.discard if chunk.data.endswith(b"\n") else still_open.add)(chunk.stream)
    return known
