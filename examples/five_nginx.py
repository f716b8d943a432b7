"""Five nginx containers from one image, an engine that is killed, and a history that survives it.

`./dev demo` builds the root file system and runs this.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from socket import create_server
from urllib.request import urlopen

import trio
from rich.console import Console
from rich.table import Table

import lading
from lading.events.codec import event_tag
from lading.events.views import CONTAINERS
from lading.storage.trees import measure

NAMES = ["anna", "bert", "cora", "dave", "emma"]
PAGE = "var/www/html/index.html"
SITE = "pid /run/n.pid; error_log stderr; events {} http { server { listen 127.0.0.1:PORT; root /var/www/html; } }"
NGINX = "exec nginx -c /etc/n.conf -g 'daemon off;'"
HTTPD = "exec httpd -f -p 127.0.0.1:PORT -h /var/www/html"
console = Console(width=110)


async def run_five(root: str, rootfs: str, ports: list[str]) -> None:
    """What the process does that is killed later: start five containers concurrently, and stay."""
    async with lading.open_engine(root) as engine:
        await engine.images.import_rootfs(rootfs, "nginx:demo")
        async with trio.open_nursery() as nursery:
            for name, port in zip(NAMES, ports, strict=True):
                script = f"echo '<h1>{name}</h1>' > /{PAGE}; echo '{SITE}' > /etc/n.conf; "
                script += HTTPD if "busybox" in rootfs else NGINX
                command = ["sh", "-c", script.replace("PORT", port)]
                container = await engine.containers.create("nginx:demo", command, name=name, labels={"port": port})
                nursery.start_soon(container.start)
        print("all started", flush=True)
        await trio.sleep_forever()


def fetch(port: str) -> str:
    """The page at ``port``, of a server that may need a moment until it listens."""
    for _ in range(200):
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/") as page:
            return page.read().decode().strip()
        time.sleep(0.02)
    raise SystemExit(f"nothing serves port {port}")


def show(states: list[lading.ContainerState], root: Path) -> dict[str, int]:
    """A table of the containers, as the log, the network and the disk tell it; their pids by name."""
    table, pids = Table("name", "state", "pid", "port", "page", "writable layer", "shared layers"), {}
    shared = measure(root / "layers").disk_bytes
    for state in sorted(states, key=lambda state: state.name):
        pids[state.name], port = state.process.pid if state.process else 0, state.spec.labels["port"]
        own = measure(root / "containers" / state.id / "upper").disk_bytes
        what = (state.name, state.phase, str(pids[state.name]), port, fetch(port))
        table.add_row(*what, f"{own >> 10} KiB", f"{shared >> 20} MiB")
    console.print(table)
    return pids


async def demo(root: Path, rootfs: str) -> None:
    """The story, in order."""
    ports = [str(create_server(("127.0.0.1", 0)).getsockname()[1]) for _ in NAMES]
    console.rule("five containers from one image, started concurrently by an engine in a process of its own")
    first = subprocess.Popen([sys.executable, __file__, rootfs, str(root), *ports], stdout=subprocess.PIPE)
    if not first.stdout.readline():
        sys.exit("the first engine did not start")
    with closing(lading.read_log(root)) as log:
        before = show([state for _, state in log.scan(CONTAINERS)], root)
    [page] = (root / "layers").glob(f"*/{PAGE}")
    original = page.read_bytes()
    Path(f"/proc/{before['anna']}/root/{PAGE}").write_text("<h1>anna, changed</h1>")
    console.print("written inside anna; the pages:", *map(fetch, ports))
    console.print("the image is unchanged:", page.read_bytes() == original)
    first.kill()
    console.rule(f"that engine was killed (exit {first.wait()}); this is the next one, on the same store")
    async with lading.open_engine(root) as engine:
        console.print("re-adopted, same pids, still serving:", before == show(engine.containers.list(), root))
        history = f"container/{engine.containers.get('anna').id}"
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(engine.containers.get(name).stop, 5)
        for name in NAMES:
            await engine.containers.get(name).remove()
        left, images = os.listdir(root / "containers"), [image.tags for image in engine.images.list()]
        console.print(f"stopped and removed; writable layers left: {left}; images left: {images}")
        console.rule("the history of anna, from the log: when, who, what")
        for record in engine.log.read_stream(history):
            when, who = datetime.fromtimestamp(record.time / 1e9).strftime("%H:%M:%S.%f"), record.actor
            print(
                f"{record.position:4}  {when}  uid {who.uid} pid {who.pid} {who.client}  {event_tag(record.event)}"
            )
        found = await engine.log.verify()
        print(f"views rebuilt from {found.records} records: all {found.states} entries equal the live ones")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        trio.run(run_five, sys.argv[2], sys.argv[1], sys.argv[3:])
    with tempfile.TemporaryDirectory(prefix="lading-demo-") as directory:
        trio.run(demo, Path(directory) / "store", sys.argv[1])
