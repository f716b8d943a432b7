"""A store with a morning's history to look at, written without running anything: history.py ROOT [CONTAINERS]."""

import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lading.events.container import (
    Created,
    Exited,
    KillRequested,
    Removed,
    RemoveFailed,
    RemoveRequested,
    Renamed,
    Started,
    StartFailed,
    StartRequested,
    StopRequested,
)
from lading.events.envelope import Actor, Proposed
from lading.events.ids import ChainId, CommandId, ContainerId, Digest, ImageId, container_stream
from lading.events.image import ImageAdded, ImageConfig, LayerAdded, Tagged
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import StoreCreated
from lading.storage.environment import FORMAT, open_log
from lading.storage.log import Append

MINUTE = 60.0
ENGINE, CI, OPERATOR = (
    Actor(0, 0, 812, "engine"),
    Actor(1000, 1000, 4127, "docker"),
    Actor(0, 0, 2210, "lading-cli"),
)
Step = tuple[float, Actor, str, str, Any]  # seconds, who, command, stream, event


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def image(at: float, name: str) -> Iterator[Step]:
    chain, which = ChainId(Digest(digest(f"layer of {name}"))), ImageId(Digest(digest(name)))
    full, command = f"docker.io/library/{name}", f"import {name}"
    config = ImageConfig(cmd=(name.split(":")[0],), env=("PATH=/usr/bin:/bin",))
    layer = LayerAdded(chain, Digest(chain), "", 81_264_640, 84_111_360, 3412, False)
    added = ImageAdded(
        which, (chain,), (Digest(chain),), config, "2025-03-14T07:00:00Z", "amd64", "linux", "import", ""
    )
    yield at, OPERATOR, command, f"layer/{chain}", layer
    yield at + 0.2, OPERATOR, command, f"image/{which}", added
    yield at + 0.2, OPERATOR, command, f"tag/{full}", Tagged(full, which, "")


class Tale:
    """One container's events, told in order; ``at`` is where its clock stands, in seconds."""

    def __init__(self, at: float, name: str, image: str, *args: str, who: Actor = OPERATOR, **labels: str) -> None:
        self.id = ContainerId(hashlib.sha256(f"{name} {at}".encode()).hexdigest())
        self.at, self.name, self.run, self.count, self.steps = at, name, 0, 0, list[Step]()
        spec = ContainerSpec(
            ImageId(Digest(digest(image))), image, (ChainId(Digest(digest(f"layer of {image}"))),), args, cmd=args,
            env=("PATH=/usr/bin:/bin",), labels=labels, hostname=name,
        )  # fmt: skip
        self._tell(who, self._command("create"), Created(self.id, name, spec))

    def _command(self, verb: str) -> str:
        self.count += 1
        return f"{verb} {self.id} {self.count}"

    def _tell(self, who: Actor, command: str, event: Any) -> None:
        self.steps.append((self.at, who, command, container_stream(self.id), event))

    def start(self, who: Actor = OPERATOR, fails: str = "") -> "Tale":
        self.at, self.run, command = self.at + 0.1, self.run + 1, self._command("start")
        self._tell(who, command, StartRequested(self.run))
        self.at += 0.4
        process = ProcessId(
            "3f1c9a52-6a0e-4b7e-9d5c-2f4e8a7d1b60", 4200 + len(self.steps), 188_213 + int(100 * self.at)
        )
        outcome = StartFailed(self.run, 127, fails) if fails else Started(self.run, process)
        self._tell(ENGINE, command, outcome)
        return self

    def runs(self, seconds: float, code: int | None = None, why: str = "") -> "Tale":
        self.at += seconds
        if code is not None or why:
            self._tell(ENGINE, self._command("exit"), Exited(self.run, code, 0, why))
        return self

    def stop(self, takes: float = 0.3, code: int = 0, who: Actor = OPERATOR) -> "Tale":
        command = self._command("stop")
        self._tell(who, command, StopRequested("SIGTERM", 10))
        self.at += takes
        self._tell(ENGINE, command, Exited(self.run, code, 0))
        return self

    def kill(self, signal: str) -> "Tale":
        self._tell(OPERATOR, self._command("kill"), KillRequested(signal))
        return self

    def rename(self, name: str) -> "Tale":
        self._tell(OPERATOR, self._command("rename"), Renamed(self.name, name))
        self.name = name
        return self

    def remove(self, takes: float = 0.2, who: Actor = OPERATOR, fails: str = "") -> "Tale":
        command = self._command("remove")
        self._tell(who, command, RemoveRequested(False))
        self.at += takes
        self._tell(ENGINE, command, RemoveFailed(fails) if fails else Removed(self.name))
        return self


def morning() -> Iterator[list[Step]]:
    """Two hours: a site and its new release, a crash loop, batch jobs, builds, a typing mistake."""
    yield list(
        itertools.chain(
            *(image(index, name) for index, name in enumerate(("nginx:1.26", "postgres:17", "app:41", "tools:3")))
        )
    )
    yield list(image(64 * MINUTE, "app:42"))
    m, far = MINUTE, 200 * MINUTE
    yield Tale(1 * m, "db", "postgres:17", "postgres", tier="data").start().runs(far).steps
    yield (
        Tale(2 * m, "web", "nginx:1.26", "nginx", tier="front")
        .start()
        .runs(50 * m)
        .stop(4 * m)
        .start()
        .runs(far)
        .steps
    )
    yield (
        Tale(3 * m, "app", "app:41", "serve", tier="api")
        .start()
        .runs(63 * m)
        .rename("app-old")
        .runs(4 * m)
        .stop(3 * m)
        .runs(20 * m)
        .remove()
        .steps
    )
    yield Tale(67 * m, "app", "app:42", "serve", tier="api").start().runs(far).steps
    loop = Tale(20 * m, "worker", "app:41", "work", tier="batch")
    for pause in (6, 4, 3, 3, 4):
        loop.start(ENGINE).runs(pause * m, 1).runs(m)
    yield loop.start().runs(far).steps
    yield (
        Tale(31 * m, "typo", "tools:3", "bckup")
        .start(fails="no such file or directory: bckup")
        .runs(6 * m)
        .remove(2 * m)
        .steps
    )
    yield (
        Tale(38 * m, "backup", "tools:3", "backup")
        .start()
        .runs(19 * m, 0)
        .runs(30 * m)
        .start()
        .runs(16 * m, 0)
        .steps
    )
    yield Tale(58 * m, "migrate", "app:42", "migrate").start().runs(7 * m, 0).runs(10 * m).remove(1.5 * m).steps
    yield (
        Tale(75 * m, "import", "tools:3", "load")
        .start()
        .runs(24 * m)
        .kill("SIGHUP")
        .runs(2 * m)
        .stop(5 * m, 137)
        .steps
    )
    yield (
        Tale(84 * m, "scratch", "tools:3", "sh")
        .start()
        .runs(8 * m, None, "its keeper was gone; its exit status is unknown")
        .runs(3 * m)
        .remove(3 * m, fails="the writable layer is busy")
        .steps
    )
    yield Tale(100 * m, "report", "tools:3", "report").steps
    for build in range(6):
        code = 2 if build == 3 else 0
        yield (
            Tale((10 + 18 * build) * m, f"build-{build + 1}", "tools:3", "make", who=CI, job="ci")
            .start(CI)
            .runs((5 + build % 3) * m, code)
            .runs(m)
            .remove(who=CI)
            .steps
        )


def crowd(count: int) -> Iterator[list[Step]]:
    """``count`` containers with ten events each."""
    dice = random.Random(7)
    yield list(image(0, "app:41"))
    for number in range(count):
        tale = Tale(dice.random() * 60 * MINUTE, f"job-{number:04}", "app:41", "work", who=CI).start(CI)
        tale.runs(dice.expovariate(1 / 300), dice.choice((0, 0, 0, 1))).runs(20).start(CI).runs(
            dice.expovariate(1 / 900)
        )
        yield tale.stop(dice.random() * 20, 143).runs(30).remove(dice.random() * 5).steps


def write(root: Path, tales: Iterator[list[Step]], hours: float) -> None:
    """Make the store; the steps past ``hours`` have not happened yet, and now is when they end."""
    steps = sorted(
        (step for tale in tales for step in tale if step[0] <= hours * 60 * MINUTE), key=lambda step: step[0]
    )
    began = time.time_ns() - int(hours * 60 * MINUTE * 1e9)
    root.mkdir(mode=0o700, parents=True)
    identity = hashlib.sha256(bytes(root)).hexdigest()[:32]
    log = open_log(root / "log", identity)
    first = (-5.0, ENGINE, "make", "engine", StoreCreated(identity, FORMAT))
    batch, causes = [], dict[str, int]()
    for position, (at, who, command, stream, event) in enumerate([first, *steps], 1):
        name = hashlib.sha256(f"{position}".encode()).hexdigest()[:32]
        correlated = CommandId(hashlib.sha256(command.encode()).hexdigest()[:32])
        batch.append(
            Append(
                (Proposed(stream, event),), (name,), began + int(at * 1e9), who, correlated, causes.get(command, 0)
            )
        )
        causes[command] = position
    refused = [answer for answer in log.append(batch) if isinstance(answer, Exception)]
    log.close()
    (root / "store.json").write_text(json.dumps({"store": identity, "format": FORMAT}))
    print(f"{root}: {len(batch)} records", *refused, sep="\n")


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    write(Path(sys.argv[1]), crowd(count) if count else morning(), 3 if count else 2)
