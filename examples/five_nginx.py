"""Five nginx containers from one image, an engine that is killed, and a history that survives it (./dev demo)."""

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
SERVE = ["exec nginx -c /etc/n.conf -g 'daemon off;'", "exec httpd -f -p 127.0.0.1:PORT -h /var/www/html"]
console = Console(width=110)


async def run_five(root: str, rootfs: str, ports: list[str]) -> None:
    serve = SERVE["busybox" in rootfs]
    async with lading.open_engine(root) as engine:
        await engine.images.import_rootfs(rootfs, "nginx:demo")
        async with trio.open_nursery() as nursery:
            for name, port in zip(NAMES, ports, strict=True):
                script = f"echo '<h1>{name}</h1>' > /{PAGE}; echo '{SITE}' > /etc/n.conf; {serve}"
                command, labels = ["sh", "-c", script.replace("PORT", port)], {"port": port}
                container = await engine.containers.create("nginx:demo", command, name=name, labels=labels)
                nursery.start_soon(container.start)
        print("all started", flush=True)
        await trio.sleep_forever()


def fetch(port: str) -> str:
    for _ in range(200):  # a server may need a moment until it listens
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/") as page:
            return page.read().decode().strip()
        time.sleep(0.02)
    sys.exit(f"nothing serves port {port}")


def show(states: list[lading.ContainerState], root: Path) -> dict[str, int]:
    table, pids = Table("name", "state", "pid", "port", "page", "writable layer", "shared layers"), {}
    shared = measure(root / "layers").disk_bytes
    for state in sorted(states, key=lambda state: state.name):
        pids[state.name], port = state.process.pid, state.spec.labels["port"]
        own = measure(root / "containers" / state.id / "upper").disk_bytes
        sizes = (f"{own >> 10} KiB", f"{shared >> 20} MiB")
        table.add_row(state.name, state.phase, str(pids[state.name]), port, fetch(port), *sizes)
    console.print(table)
    return pids


async def demo(root: Path, rootfs: str) -> None:
    ports = [str(create_server(("127.0.0.1", 0)).getsockname()[1]) for _ in NAMES]
    console.rule("five containers from one image, started concurrently by an engine in a process of its own")
    first = subprocess.Popen([sys.executable, __file__, rootfs, str(root), *ports], stdout=subprocess.PIPE)
    assert first.stdout.readline()
    with closing(lading.read_log(root)) as log:
        before = show([state for _, state in log.scan(CONTAINERS)], root)
    [page] = (root / "layers").glob(f"*/{PAGE}")  # in the one layer that all five share
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
        [await engine.containers.get(name).remove() for name in NAMES]
        console.print("stopped and removed; writable layers left:", len(os.listdir(root / "containers")))
        console.print("images left:", *(image.tags for image in engine.images.list()))
        console.rule("the history of anna, from the log: when, who, what")
        for record in engine.log.read_stream(history):
            when, who = datetime.fromtimestamp(record.time / 1e9).strftime("%H:%M:%S.%f"), record.actor
            print(record.position, when, f"uid {who.uid} pid {who.pid}", who.client, event_tag(record.event))
        verified = await engine.log.verify()
        print(f"views rebuilt from {verified.records} records: all {verified.states} entries equal the live ones")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        trio.run(run_five, sys.argv[2], sys.argv[1], sys.argv[3:])
    with tempfile.TemporaryDirectory(prefix="lading-demo-") as directory:
        trio.run(demo, Path(directory) / "store", sys.argv[1])
