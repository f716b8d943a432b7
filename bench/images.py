"""How long load, pull, save and push take beside other engines, and in how much memory.

Three rounds: in each everybody has a turn, so that a slow minute slows all; the median counts, after one round
that does not. The image: a Debian of 200 MB and 9,800 entries. Archives, the registry's files and the programs are
in the page cache; each engine's store has no image at the beginning of a turn. All of it on tmpfs, and on disk,
where Lading has synced what it says it has, and the others leave that to the kernel. ``ratio`` is to docker,
``to_podman`` and ``to_tar`` to those: GNU tar unpacks the same layers, and does nothing else.

    python bench/images.py [--rounds N] [--only docker,podman,...] [--measures load,pull,...] [--places disk,tmpfs]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import _debian
import peers
import trio
from _contest import NAMES, Contestant, contestants
from _memory import Peak
from _report import Report
from registry import LocalRegistry

MEASURES = ("load", "pull", "save", "push", "memory")
PLACES = {"tmpfs": Path("/dev/shm"), "disk": Path("/var/tmp")}
MB = 1e6


class Bench:
    """One place's contest."""

    def __init__(
        self, report: Report, place: str, directory: Path, rounds: int, who: dict[str, Contestant]
    ) -> None:
        self._report = report
        self._place = place
        self._directory = directory
        self._rounds = rounds
        self._who = who

    async def measure(
        self,
        what: str,
        turn: Callable[[Contestant], Awaitable[None]],
        prepare: Callable[[Contestant], Awaitable[None]] | None = None,
        after: Callable[[], None] | None = None,
        tar: float | None = None,
    ) -> None:
        """Time ``turn`` for everybody, but neither ``prepare``, which comes before it, nor ``after``."""
        seconds: dict[str, list[float]] = {}
        out: set[str] = set()
        for number in range(self._rounds + 1):
            async with self._round() as who:
                for name, contestant in who.items():
                    if name in out:
                        continue
                    try:
                        if prepare is not None:
                            await prepare(contestant)
                        subprocess.run(["sync"], check=True)
                        began = time.perf_counter()
                        await turn(contestant)
                        took = time.perf_counter() - began
                    except subprocess.CalledProcessError as failed:
                        self._refused(what, contestant, failed)
                        out.add(name)
                        continue
                    finally:
                        if who is self._who:
                            await contestant.forget()
                        if after is not None:
                            after()
                    if number:
                        seconds.setdefault(name, []).append(took)
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        for name, value in medians.items():
            more = {"to_podman": value / medians["podman"]} if "podman" in medians else {}
            if tar is not None:
                more["to_tar"] = value / tar
            ratio = value / medians["docker"] if "docker" in medians else None
            peer = self._who[name].name
            self._report.add(f"{what}, {self._place}", value, "s", n=self._rounds, peer=peer, ratio=ratio, **more)

    @asynccontextmanager
    async def _round(self) -> AsyncIterator[dict[str, Contestant]]:
        """Everybody; on disk, with stores on a file system on which nothing was deleted yet."""
        if self._place != "disk":
            yield self._who
            return
        with fresh_disk(self._directory) as disk:
            async with contestants(disk, list(self._who)) as who:
                yield who

    def _new(self, name: str) -> Path:
        """An empty directory."""
        path = self._directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def _refused(self, what: str, contestant: Contestant, failed: subprocess.CalledProcessError) -> None:
        words = failed.stderr.decode(errors="replace").strip()
        self._report.missing(contestant.name, f"{what}, {self._place}: not supported: {words[-200:]}")

    def tar(self, what: str, archive: Path) -> float:
        """The seconds GNU tar takes for the layers of ``archive``."""
        with tempfile.TemporaryDirectory(dir=self._directory) as name:
            layers = _debian.layers_of(archive, Path(name))
            form = {"g": ["--gzip"], "z": ["--zstd"], "p": []}[archive.name[0]]
            seconds, synced = [], []
            for _ in range(self._rounds + 1):
                with fresh_disk(self._directory) if self._place == "disk" else nullcontext(Path(name)) as disk:
                    target = disk / "tree"
                    target.mkdir()
                    began = time.perf_counter()
                    for layer in layers:
                        subprocess.run(["tar", "-C", target, *form, "--numeric-owner", "-xf", layer], check=True)
                    seconds.append(time.perf_counter() - began)
                    subprocess.run(["sync", "--file-system", target], check=True)
                    synced.append(time.perf_counter() - began)
                    shutil.rmtree(target)
        value = statistics.median(seconds[1:])
        self._report.add(f"{what}, {self._place}", value, "s", n=self._rounds, peer="tar -x")
        if self._place == "disk":
            after = statistics.median(synced[1:])
            self._report.add(f"{what}, {self._place}", after, "s", n=self._rounds, peer="tar -x, sync -f")
        return value

    async def load(self) -> None:
        for layers, form in ((1, "plain"), (1, "gzip"), (1, "zstd"), (10, "plain"), (10, "gzip")):
            what = f"load {form}, {layers} {'layer' if layers == 1 else 'layers'}"
            archive = _debian.archive(layers, form)
            yard = self.tar(what, archive)
            await self.measure(what, lambda one, archive=archive: one.load(archive), tar=yard)

    async def pull(self) -> None:
        with LocalRegistry(self._new("registry")) as registry:
            for form in ("gzip", "zstd"):
                for layers in _debian.LAYERS:
                    what = f"pull {form}, {layers} {'layer' if layers == 1 else 'layers'}"
                    reference = fill(registry, layers, form)
                    yard = self.tar(what, _debian.archive(layers, form))
                    await self.measure(what, lambda one, reference=reference: one.pull(reference), tar=yard)

    async def save(self) -> None:
        target = self._directory / "saved.tar"

        def drop() -> None:
            target.unlink(missing_ok=True)

        archive, name = _debian.archive(10, "plain"), "localhost/bench/plain:10"
        await self.measure(
            "save, 10 layers, loaded plain",
            lambda one: one.save(name, target),
            lambda one: one.load(archive),
            drop,
        )
        with LocalRegistry(self._new("registry")) as registry:
            reference = fill(registry, 10, "gzip")
            await self.measure(
                "save, 10 layers, pulled gzip",
                lambda one: one.save(reference, target),
                lambda one: one.pull(reference),
                drop,
            )

    async def push(self) -> None:
        """Into an empty registry each time, as nobody else has any of the layers there."""
        archive, name = _debian.archive(10, "plain"), "localhost/bench/plain:10"
        with LocalRegistry(self._new("registry")) as registry:
            target = f"{registry.address}/bench/pushed:1"
            await self.measure(
                "push, 10 layers, loaded plain",
                lambda one: one.push(name, target),
                lambda one: one.load(archive),
                lambda: shutil.rmtree(registry.storage, ignore_errors=True),
            )
        with LocalRegistry(self._new("registry")) as source, LocalRegistry(self._new("other")) as registry:
            reference = fill(source, 10, "gzip")
            target = f"{registry.address}/bench/pushed:1"
            await self.measure(
                "push, 10 layers, pulled gzip",
                lambda one: one.push(reference, target),
                lambda one: one.pull(reference),
                lambda: shutil.rmtree(registry.storage, ignore_errors=True),
            )

    async def memory(self) -> None:
        """Peaks of an engine's processes, without the client's; once each."""
        large = _debian.large(self._directory)
        small, many = _debian.archive(1, "plain"), _debian.archive(10, "plain")
        with LocalRegistry(self._new("registry")) as registry:
            name = f"{registry.address}/bench/large:gzip"
            peers.skopeo_copy(f"docker-archive:{large}", f"docker://{name}")
            pulled = {"200 MB gzip": fill(registry, 1, "gzip"), "200 MB zstd": fill(registry, 1, "zstd")}
            pulled["200 MB gzip, 10 layers"] = fill(registry, 10, "gzip")
            for what, source in {"200 MB": small, "200 MB, 10 layers": many, "2 GB": large}.items():
                await self._peaks(f"peak while loading {what}", lambda one, source=source: one.load(source))
            for what, reference in {**pulled, "2 GB gzip": name}.items():
                await self._peaks(
                    f"peak while pulling {what}", lambda one, reference=reference: one.pull(reference)
                )
        large.unlink()

    async def _peaks(self, what: str, turn: Callable[[Contestant], Awaitable[None]]) -> None:
        for contestant in self._who.values():
            if not contestant.counted:
                continue
            with Peak(contestant.pids) as peak:
                try:
                    await turn(contestant)
                except subprocess.CalledProcessError as failed:
                    self._refused(what, contestant, failed)
                    continue
                finally:
                    await contestant.forget()
            self._report.add(f"{what}, {self._place}", peak.bytes / MB, "MB", n=1, peer=contestant.name)


def fill(registry: LocalRegistry, layers: int, form: str) -> str:
    """The reference under which ``registry`` has the image, put there without a change."""
    name = f"{registry.address}/bench/{form}:{layers}"
    if form == "plain":
        raise ValueError("registries hold what is compressed")
    archive = _debian.archive(layers, form)
    peers.skopeo_copy(f"oci-archive:{archive}", f"docker://{name}", "--preserve-digests")
    return name


@contextmanager
def fresh_disk(directory: Path) -> Iterator[Path]:
    """An ext4 of its own in a file on the disk, deleted at the end.

    For a minute after a deletion ext4 passes over the inodes that it freed (``recently_deleted``,
    fs/ext4/ialloc.c): on one that serves turn after turn, the time that making a file takes grows tenfold.
    """
    image, mount = directory / "disk.img", directory / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 30)
    mount.mkdir()
    quiet = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", quiet, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)
        mount.rmdir()
        image.unlink()


@contextmanager
def workplace(name: str) -> Iterator[Path]:
    """A directory there, deleted at the end."""
    path = Path(tempfile.mkdtemp(prefix="lading-bench-", dir=PLACES[name]))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def main(rounds: int, only: list[str], measures: list[str], places: list[str]) -> None:
    report = Report("images")
    if os.geteuid() != 0:
        raise SystemExit("unpacking images needs root")
    if absent := peers.missing("docker-registry", "skopeo", "docker"):
        raise SystemExit(f"not installed: {', '.join(absent)}; ./dev bench images installs them")
    for place in places:
        with workplace(place) as directory:
            async with contestants(directory, only) as who:
                for name in only:
                    if name not in who:
                        report.missing(name, "it is not installed")
                bench = Bench(report, place, directory, rounds, who)
                for measure in measures:
                    if measure != "memory" or place == "disk":
                        await getattr(bench, measure)()
    report.finish()
    report.compare()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for option, default in (("only", NAMES), ("measures", MEASURES), ("places", tuple(PLACES))):
        parser.add_argument(f"--{option}", type=lambda words: words.split(","), default=list(default))
    arguments = parser.parse_args()
    trio.run(main, arguments.rounds, arguments.only, arguments.measures, arguments.places)
