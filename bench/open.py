"""How long does it take to open a store with a long history: the views must not be replayed, nor anything else.

A log of a million events and ten thousand containers that exist is opened for writing, each time in a process
of its own; ``open`` is the median of its time, and ``ratio`` compares it with opening the same file with LMDB
and nothing else. ``first query`` is the first look at one container after that, and ``listing`` all ten
thousand of them.

    python bench/open.py [--records N] [--containers N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _history import populated
from _report import Report

_OPEN = """
import json, sys, time
from pathlib import Path
from lading.events.views import CONTAINERS
from lading.storage.environment import open_log
path, one = Path(sys.argv[1]), sys.argv[2]
began = time.perf_counter()
log = open_log(path)
opened = time.perf_counter()
assert log.get(CONTAINERS, one) is not None
looked = time.perf_counter()
count = len(log.scan(CONTAINERS))
listed = time.perf_counter()
print(json.dumps([opened - began, looked - opened, listed - looked, count, log.position]))
log.close()
"""

_BARE = """
import json, sys, time, lmdb
began = time.perf_counter()
env = lmdb.open(sys.argv[1], map_size=1 << 40, max_dbs=9)
table = env.open_db(b"log", create=False)
with env.begin(db=table) as txn:
    txn.cursor().last()
print(json.dumps([time.perf_counter() - began]))
env.close()
"""


def timed(program: str, *args: str) -> list[list[float]]:
    """What eleven runs of ``program`` say, the first of which only warms the cache."""
    runs = []
    for _ in range(11):
        said = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=True)
        runs.append(json.loads(said.stdout))
    return runs[1:]


def main(records: int, containers: int) -> None:
    report = Report("open")
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as name:
        path = Path(name) / "log"
        log, one = populated(path, records, containers)
        log.close()
        runs = timed(_OPEN, str(path), one)
        assert runs[0][4] == records
        bare = statistics.median(run[0] for run in timed(_BARE, str(path)))
        report.add("open", bare * 1000, "ms", n=10, peer="bare LMDB", ratio=1)
        for metric, at in (("open", 0), ("first query", 1), ("listing", 2)):
            took = statistics.median(run[at] for run in runs)
            report.add(metric, took * 1000, "ms", n=10, ratio=took / bare if at == 0 else None)
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--containers", type=int, default=10_000)
    args = parser.parse_args()
    main(args.records, args.containers)
