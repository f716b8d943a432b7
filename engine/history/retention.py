"""Keeping history, honestly: everything, unless somebody moves the old part into an archive."""

from __future__ import annotations

from functools import partial

import trio

from lading.engine.core import Caller, Core
from lading.events.compaction import LogCompacted
from lading.events.errors import LadingError
from lading.storage.compact import archive

__all__ = ["clear_compacted", "compact"]


async def compact(core: Core, store: str, last: int, caller: Caller) -> LogCompacted:
    """Move the records up to ``last`` into an archive segment in the store's ``archive`` directory.

    Appends and queries go on meanwhile; only the moment in which the log gets its new beginning is theirs to
    wait for. A cancel before that leaves the log as it was; after it, what is left to delete is deleted by the
    engine. Raises ``NotInHistory``, ``StoreCorrupt`` and ``HostError``.
    """
    core.check_open()
    async with core.compacting:
        segment = await trio.to_thread.run_sync(archive, core.log.db, store, last, core.paths.archive)
        journal = core.journal
        with trio.CancelScope(shield=True):
            event_id, time = journal.new_id(), journal.clock()
            record = await journal.call(
                partial(core.log.rebase, segment, event_id, time, caller.actor, caller.command)
            )
        core.nursery.start_soon(clear_compacted, core)
    assert isinstance(record.event, LogCompacted)
    return record.event


async def clear_compacted(core: Core) -> None:
    """Delete what was compacted away, a little at a time, until nothing of it is left or the engine closes."""
    try:
        while await core.journal.call(core.log.clear):
            pass
    except LadingError:
        return  # closed, or broken: the next one goes on with it
