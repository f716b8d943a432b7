"""Layers and blobs on disk: made aside, synced, then renamed into place.

Nothing here is visible before the event that names it, and everything that an event names is complete and
on disk: power may fail at any instant (a metadata database that is synced, above layer data that is not, is
how other engines lose layers). One sync serves all that is put in place together.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from lading.events.errors import HostError
from lading.events.ids import Digest
from lading.events.image import ArchiveForm
from lading.storage.linux import sync_directory, syncfs
from lading.storage.settle import Settled, settle
from lading.storage.split import SplitMoves
from lading.storage.store import Paths
from lading.storage.trees import measure
from lading.storage.unpack import Unpacked

__all__ = ["Placed", "Placement", "StagedLayer", "blob_name", "place"]


@attrs.frozen
class StagedLayer:
    """An unpacked layer that nobody can see yet, in the directory ``tree``, and what its archive turned out to be.

    ``raw``: the archive as it came, if that was compressed. ``split``: a directory with what makes it again from
    the tree (``storage/split``), if it was not. None where that was not asked for.
    """

    tree: Path
    unpacked: Unpacked
    raw: Path | None = None
    split: Path | None = None


@attrs.frozen
class Placement:
    """A staged layer and where it belongs: as ``chain``, on top of the chain ids ``lowers``, the top one first.

    ``lowers`` ends with the first one that hides all that is below it, as far as that is known.
    """

    chain: str
    staged: StagedLayer
    lowers: Sequence[str]

    @property
    def unsettled(self) -> bool:
        """Whether it has to be settled on what is below it (``storage/settle``)."""
        return bool(self.staged.unpacked.implied or self.staged.unpacked.borrowed)


@attrs.frozen
class Placed:
    """What a layer takes on disk, as ``du`` counts, and how its archive is kept and what that takes.

    ``opaque``: it hides all that is below it.
    """

    disk_bytes: int
    inodes: int
    opaque: bool
    form: ArchiveForm
    archive_bytes: int


def place(
    paths: Paths, placements: Sequence[Placement], blobs: Mapping[Digest, bytes] | None = None
) -> dict[str, Placed]:
    """Put staged layers (the lowest first) and ``blobs`` (digest to content) in place, durably.

    What is there already is left as it is. A layer that is ``unsettled`` is settled first; nobody may put the same
    one in place meanwhile. Returns what each layer takes, by chain id. Raises ``HostError``, and ``BadLayer`` for
    a layer that doesn't fit on those below it; what was put in place by then, and what a crash leaves, is in no
    record and thus an orphan.
    """
    where = paths.root
    settled = _settle(paths, placements)
    try:
        for digest, content in (blobs or {}).items():
            if not (where := blob_name(paths, digest)).exists():
                new = paths.staging / secrets.token_hex(8)
                new.write_bytes(content)
                new.rename(where)
        for each in placements:
            _archive(paths, each)
        where = paths.layers
        _sync(paths.root)
        placed = {each.chain: _placed(paths, each, settled.get(each.chain)) for each in placements}
        for each in placements:
            where = paths.layer(each.chain)
            _rename(each.staged.tree, where)
        for directory in (paths.layers, paths.splits, paths.blobs):
            sync_directory(directory)
    except OSError as error:
        raise HostError("put in place", os.fspath(where), error.errno or 0, _hint(error)) from error
    return placed


def blob_name(paths: Paths, digest: str) -> Path:
    """Where the blob with this (checked) digest is."""
    return paths.blobs / digest.removeprefix("sha256:")


def _archive(paths: Paths, placement: Placement) -> None:
    """Put what makes the layer's archive again in its place."""
    staged = placement.staged
    if staged.raw is not None:
        _rename(staged.raw, blob_name(paths, staged.unpacked.digest))
    elif staged.split is not None:
        _rename(staged.split, paths.split(placement.chain))


def _settle(paths: Paths, placements: Sequence[Placement]) -> dict[str, Settled]:
    """Settle those layers that need it, the lowest first."""
    found: dict[str, Settled] = {}
    trees = {each.chain: each.staged.tree for each in placements if each.staged.tree.exists()}
    opaque = {each.chain for each in placements if each.staged.unpacked.opaque_root}
    for each in placements:
        if not each.unsettled or each.chain not in trees:  # put in place by somebody else
            continue
        lowers = []
        for chain in each.lowers:
            lowers.append(trees.get(chain, paths.layer(chain)))
            if chain in opaque:
                break
        made = each.staged.unpacked
        with _moves(each.staged.split) as moves:
            settled = settle(
                trees[each.chain],
                lowers,
                made.implied,
                made.borrowed,
                opaque_root=made.opaque_root,
                moves=moves,
            )
        found[each.chain] = settled
        if settled.opaque_root:
            opaque.add(each.chain)
    return found


@contextmanager
def _moves(split: Path | None) -> Iterator[SplitMoves | None]:
    """What tells the split where things went."""
    if split is None:
        yield None
        return
    fd = os.open(split, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        moves = SplitMoves(fd)
        yield moves
        moves.finish()
    finally:
        os.close(fd)


def _placed(paths: Paths, placement: Placement, settled: Settled | None) -> Placed:
    """What the layer takes: told once it is on disk, since a file system may decide that late."""
    staged, archive = placement.staged, 0
    form: ArchiveForm = "pack"
    if staged.raw is not None:
        form, archive = "blob", blob_name(paths, staged.unpacked.digest).stat().st_blocks * 512
    elif staged.split is not None:
        form, archive = "split", measure(paths.split(placement.chain)).disk_bytes
    made = staged.unpacked
    if settled is not None:
        return Placed(settled.usage.disk_bytes, settled.usage.inodes, settled.opaque_root, form, archive)
    return Placed(made.disk_bytes, made.inodes, made.opaque_root, form, archive)


def _rename(source: Path, target: Path) -> None:
    """``source`` as ``target``, unless that is there: put there by somebody else, from here or of the same
    content.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT) or not target.exists():
            raise


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _hint(error: OSError) -> str:
    return "free some space and try again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
