"""How long does it take to go back to any moment of a long history.

In a log of a million events and ten thousand containers that exist, ``at`` is the views at a position drawn at
random, and one container of then; ``at, by time`` finds the position of an instant first; ``listing`` is all
containers of then. ``without snapshots`` is what the same costs when all before has to be folded, at a tenth of
the log, and ``ratio`` compares with that. ``snapshots`` is what they take (``ratio``: to the records).

    python bench/travel.py [--records N] [--containers N]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _history import populated
from _report import Report

from lading.events.views import CONTAINERS
from lading.storage.log import Log
from lading.storage.walk import Fold

TIMES = 400


def quantiles(work: Callable[[int], object], positions: list[int]) -> tuple[float, float]:
    """The median and the 95th percentile of the milliseconds that ``work`` takes at ``positions``."""
    took = []
    for position in positions:
        began = time.perf_counter()
        work(position)
        took.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(took, n=20)
    return cuts[9], cuts[18]


def folded(log: Log, last: int) -> float:
    """Milliseconds to fold the first ``last`` records."""
    began = time.perf_counter()
    fold, after = Fold(), 0
    while after < last:
        fold.feed(page := log.read_raw(after, min(4096, last - after)))
        after = page[-1][0]
    return (time.perf_counter() - began) * 1000


def main(records: int, containers: int) -> None:
    report = Report("travel")
    chance = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        log, one = populated(Path(name) / "log", records, containers)
        positions = [chance.randint(1, records) for _ in range(TIMES)]
        times = {position: log.read(position - 1, 1)[0].time for position in positions}
        whole = folded(log, records // 10)
        report.add("without snapshots", whole, "ms", n=1, peer="folding a tenth", ratio=1)

        def by_time(position: int) -> object:
            return log.at(log.position_at(times[position])).get(CONTAINERS, one)

        for metric, work, many in (
            ("at", lambda position: log.at(position).get(CONTAINERS, one), TIMES),
            ("at, by time", by_time, TIMES),
            ("listing", lambda position: log.at(position).scan(CONTAINERS), TIMES // 10),
        ):
            median, most = quantiles(work, positions[:many])
            report.add(metric, median, "ms", n=many, ratio=median / whole, p95_ms=most)
        with log.db.read() as txn:
            stats = {table: txn.stat(log.db.tables[table]) for table in ("log", "past", "mark")}
        pages = {
            table: stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for table, stat in stats.items()
        }
        report.add(
            "snapshots",
            pages["past"] * 4096 / 1e6,
            "MB",
            n=stats["mark"]["entries"],
            ratio=pages["past"] / pages["log"],
        )
        log.close()
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--containers", type=int, default=10_000)
    args = parser.parse_args()
    main(args.records, args.containers)
