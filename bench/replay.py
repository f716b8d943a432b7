"""How fast is the log read back: records a second, and whether memory stays flat.

The yardstick (``ratio``) is a bare LMDB cursor that copies out the same bytes in the same run. ``decoded``:
into whole records. ``folded``: into the state of every view. ``folded, checked``: with each record's chain.
``verify``: all of that, and every byte of the indexes and views compared. Each reads the log from its start,
the best of three; the file is in the page cache.

``memory`` is what a process's own memory (RssAnon) grows by, at its highest, while it folds the whole log: for
one of a tenth of the length and for all of it, which have the same number of containers alive.

    python bench/replay.py [--records N]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
from _history import written
from _report import Report

from lading.events.codec import decode_record
from lading.events.replay import Replay
from lading.storage.environment import open_log
from lading.storage.log import Log

PAGE = 1000


def pages(log: Log) -> Iterator[list[tuple[int, bytes]]]:
    """The whole log, undecoded."""
    after = 0
    while page := log.read_raw(after, PAGE):
        yield page
        after = page[-1][0]


def scan(log: Log) -> int:
    return sum(len(page) for page in pages(log))


def decode(log: Log) -> int:
    count = 0
    for page in pages(log):
        for position, stored in page:
            decode_record(stored, position)
        count += len(page)
    return count


def fold(log: Log, checked: bool = False) -> int:
    replay = Replay(checked=checked)
    for page in pages(log):
        replay.feed(page)
    return replay.position


def bare(directory: Path) -> int:
    """What LMDB itself can do: every key and value copied out."""
    env = lmdb.open(str(directory), readonly=True, max_dbs=5, map_size=1 << 40)
    table = env.open_db(b"log", create=False)
    count = 0
    with env.begin(db=table) as txn, txn.cursor() as cursor:
        for _ in cursor:
            count += 1
    env.close()
    return count


def rate(read: Callable[[], int]) -> float:
    """Records a second, the best of three."""
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        count = read()
        best = max(best, count / (time.perf_counter() - began))
    return best


def own_memory() -> int:
    """This process's anonymous resident bytes: not the mapped file, which the kernel may drop at any time."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def growth(directory: Path) -> int:
    """How many bytes folding the log in ``directory`` takes at most, seen after every page."""
    log = open_log(directory, readonly=True)
    before = highest = own_memory()
    replay = Replay()
    for page in pages(log):
        replay.feed(page)
        highest = max(highest, own_memory())
    log.close()
    return highest - before


def measured_growth(directory: Path) -> int:
    """``growth``, in a process that has done nothing else."""
    done = subprocess.run([sys.executable, __file__, "--growth", directory], check=True, stdout=subprocess.PIPE)
    return int(done.stdout)


def main(records: int) -> None:
    report = Report("replay")
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        short, long = Path(name) / "short", Path(name) / "long"
        written(short, records // 10).close()
        written(long, records).close()
        yardstick = rate(lambda: bare(long))
        report.add("scanned", yardstick, "1/s", n=records, peer="bare LMDB", ratio=1)
        log = open_log(long)
        kinds: dict[str, Callable[[], int]] = {
            "scanned": lambda: scan(log),
            "decoded": lambda: decode(log),
            "folded": lambda: fold(log),
            "folded, checked": lambda: fold(log, checked=True),
            "verify": lambda: log.verify().records,
        }
        for kind, read in kinds.items():
            value = rate(read)
            report.add(kind, value, "1/s", n=records, ratio=value / yardstick)
        log.close()
        least = measured_growth(short)
        report.add("memory", least / 1e6, "MB", n=records // 10, ratio=1)
        most = measured_growth(long)
        report.add("memory", most / 1e6, "MB", n=records, ratio=most / least)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--growth", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.growth:
        print(growth(arguments.growth))
    else:
        main(arguments.records)
