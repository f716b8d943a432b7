"""Compressing a layer's archive to be sent: gzip, the same bytes for the same archive."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from isal import isal_zlib

from lading.events.errors import DigestMismatch

__all__ = ["compressed"]

_LEVEL = 1
"""Of isal's four. On a Debian root file system it makes 1.06 times as much as zlib's 6 does, in an eighth of the
time.
"""


def compressed(
    plain: Iterator[bytes], diff_id: str, told: Callable[[int], None] = lambda _: None
) -> Iterator[bytes]:
    """The archive ``plain`` as gzip. ``told`` hears how many plain bytes are through.

    Raises ``DigestMismatch`` at the end, before the last bytes are given, if it isn't the archive with this diff
    id, and what ``plain`` raises.
    """
    hasher, done = hashlib.sha256(), 0
    packer = isal_zlib.compressobj(_LEVEL, wbits=31)
    for piece in plain:
        hasher.update(piece)
        done += len(piece)
        if packed := packer.compress(piece):
            yield packed
        told(done)
    actual = f"sha256:{hasher.hexdigest()}"
    if actual != diff_id:
        raise DigestMismatch("the archive of a layer, made again", diff_id, actual)
    yield packer.flush()
