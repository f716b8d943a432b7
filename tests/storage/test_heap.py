"""What a worker's memory goes to: one arena, and nothing that a job before left."""

from __future__ import annotations

import gc
import gzip
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.storage.beneath import Parents
from lading.storage.layerstream import LayerStream
from lading.storage.split import SplitWriter
from lading.storage.tar import TarReader
from lading.storage.treewriter import TreeWriter
from lading.storage.unpack import unpack

_THREADS = """
import sys, threading
from lading.storage.heap import share_arena

done = share_arena() if sys.argv[1] == "shared" else None
held = []

def work():
    held.extend(bytes(5000) for _ in range(100))

for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
# A thread's arena begins where an address is divisible by 64 MiB, or 32 (glibc, malloc/arena.c, HEAP_MAX_SIZE).
found = [line.split()[0].split("-")[0] for line in open("/proc/self/maps") if " rw-p 00000000 00:00 0 " in line]
print(done, sum(int(start, 16) % (32 << 20) == 0 for start in found))
"""


def _arenas(way: str) -> list[str]:
    return subprocess.check_output([sys.executable, "-c", _THREADS, way], text=True).split()


@pytest.mark.slow
def test_threads_share_an_arena() -> None:
    _, own = _arenas("own")
    if own == "0":
        pytest.skip("this C library gives a thread no arena")
    assert _arenas("shared") == ["True", "0"]


@pytest.mark.parametrize("pack", [None, gzip.compress])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_layer_leaves_nothing_to_collect(
    place: Any, tar: Any, tmp_path: Path, pack: Callable[[bytes], bytes] | None, threads: int
) -> None:
    """A worker collects no cycles, and one that holds on to a writer holds on to its compressor, too."""
    kinds = (LayerStream, Parents, SplitWriter, TarReader, TreeWriter)
    data = tar.d(b"d") + tar.f(b"d/f", b"x" * 5000) + tar.f(b"made/up/f", b"y") + bytes(1024)
    (tmp_path / "split").mkdir()
    split = os.open(tmp_path / "split", os.O_RDONLY | os.O_DIRECTORY)
    gc.collect()
    gc.disable()
    try:
        with SplitWriter(split) as writer:
            source = io.BytesIO(pack(data) if pack else data)
            made = unpack(source, place.root, split=writer, threads=threads, wait=True)
        del writer
        assert made.entries == 3
        assert [each for each in gc.get_objects() if isinstance(each, kinds)] == []
    finally:
        gc.enable()
        os.close(split)
