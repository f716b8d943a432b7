"""What /etc/hostname, /etc/hosts and /etc/resolv.conf say in a container; they are mounted over the image's own.

Whoever made the container may add to them (hosts(5), resolv.conf(5)). The values were checked when it was created
and are checked again here: a log may come from elsewhere, and a line feed in one would be another line.
"""

from __future__ import annotations

from lading.events.errors import Invalid
from lading.events.settingchecks import extra_host
from lading.events.settings import ContainerSettings
from lading.events.spec import ContainerSpec

__all__ = ["PRIVATE_FILES", "private_files"]

PRIVATE_FILES = ("hostname", "hosts", "resolv.conf")
"""Their names in /etc and in the bundle."""

_LOCAL = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def private_files(spec: ContainerSpec, settings: ContainerSettings) -> list[tuple[str, bytes]]:
    """Name and contents of each. On the host's network they begin as the host's. Raises ``Invalid``."""
    shared = spec.network == "host"
    hosts = _read("/etc/hosts") if shared else _LOCAL
    if settings.extra_hosts:
        hosts = _ended(hosts) + b"".join(_line(settings.extra_hosts))
    resolv = _read("/etc/resolv.conf") if shared else b""
    if settings.dns or settings.dns_search or settings.dns_options:
        resolv = _resolver(resolv, settings)
    return [("hostname", f"{spec.hostname}\n".encode()), ("hosts", hosts), ("resolv.conf", resolv)]


def _line(entries: tuple[str, ...]) -> list[bytes]:
    return [f"{address}\t{name}\n".encode() for name, address in map(extra_host, entries)]


def _resolver(host: bytes, settings: ContainerSettings) -> bytes:
    """resolv.conf with each of servers, search list and options as asked, or else as in ``host``.

    As libnetwork builds it: a search list of ``.`` is none.
    """
    lines = [line.split() for line in host.decode("utf-8", "replace").split("\n")]
    servers = list(settings.dns) or [words[1] for words in lines if words[:1] == ["nameserver"] and words[1:]]
    search = list(settings.dns_search) or next(
        (words[1:] for words in reversed(lines) if words[:1] in (["search"], ["domain"])), []
    )
    options = list(settings.dns_options) or [
        word for words in lines if words[:1] == ["options"] for word in words[1:]
    ]
    made = [f"search {' '.join(search)}"] if search and search != ["."] else []
    made += [f"nameserver {server}" for server in servers]
    made += [f"options {' '.join(options)}"] if options else []
    for word in (*settings.dns, *settings.dns_search, *settings.dns_options):
        if len(word.split()) != 1 or not word.isprintable():
            raise Invalid("dns setting", word, "one word")
    return "".join(f"{line}\n" for line in made).encode()


def _ended(text: bytes) -> bytes:
    return text if not text or text.endswith(b"\n") else text + b"\n"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
