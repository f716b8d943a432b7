"""What is recorded when old records leave the log for an archive (stream ``engine``)."""

from __future__ import annotations

import attrs

__all__ = ["LogCompacted"]


@attrs.frozen
class LogCompacted:
    """The records ``first`` to ``last`` are in the archive file ``archive``, no longer in the log.

    ``chain`` (hexadecimal) is the chain at ``last``, which the first record that is left follows. ``state`` is the
    sha256 over the views as they were at ``last``, which the log keeps; ``digest`` that of the archive's bytes.
    """

    first: int
    last: int
    chain: str
    state: str
    archive: str
    digest: str
