"""From moments, as people give them, to positions of one log."""

from __future__ import annotations

from lading.events.moments import Moment, Position
from lading.storage.log import Log

__all__ = ["last_until", "start_since"]


def start_since(log: Log, moment: Moment) -> int:
    """The position after which everything since ``moment`` comes, but for what is no longer kept.

    Of a position that is itself; of an instant, the last position before the first record that is as late. Where a
    clock was set back, older times may follow: order is by position.
    """
    after = moment.position if isinstance(moment, Position) else log.position_from(moment.time) - 1
    return max(after, log.first - 1)


def last_until(log: Log, moment: Moment) -> int:
    """The last position that is not past ``moment``: itself, or of an instant the last record that is as early."""
    return moment.position if isinstance(moment, Position) else log.position_at(moment.time)
