"""How registries are spoken to: mirrors, trust, limits. A small TOML file, all of which may be left out::

    # /etc/lading/registries.toml
    insecure = ["registry.example:5000", "10.0.0.0/8"]   # plain HTTP, or TLS that nobody vouches for
    certificates = ["/etc/lading/certs.d", "/etc/docker/certs.d"]
    proxies = true                                       # those of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY

    [mirrors]                                            # tried in this order, before the registry itself
    "docker.io" = ["https://mirror.example"]

    [limits]
    downloads = 3            # layers of one image at a time
    uploads = 5
    attempts = 6             # of one request; of a blob: without progress
    connect_timeout = 15.0   # seconds
    stall_timeout = 30.0     # seconds without a byte
    first_delay = 0.25       # seconds before the second attempt, doubled for each further one
    longest_delay = 15.0     # seconds; also the longest ``Retry-After`` that is waited for, times four

Loopback addresses are insecure without being listed, as Docker has it, unless ``loopback = false``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from lading.events.errors import HostError, Invalid

__all__ = [
    "SETTINGS_PATH",
    "Endpoint",
    "RegistrySettings",
    "default_endpoint",
    "host_name",
    "is_loopback",
    "load_settings",
    "written_address",
]

SETTINGS_PATH = "/etc/lading/registries.toml"
_DEFAULT_DOMAIN = "docker.io"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_NUMBERS = re.compile(r"[0-9A-Fa-fxX.]{1,60}")


@attrs.frozen
class Endpoint:
    """Where a registry answers. ``host``: with its port, if it isn't the scheme's.

    ``scheme``: ``https``, ``http``, or empty: to be found out, which only insecure ones allow. ``mirror``: it
    serves what another registry has.
    """

    host: str
    scheme: str = "https"
    mirror: bool = False


@attrs.frozen
class RegistrySettings:
    """See the module's text. Times in seconds."""

    insecure: tuple[str, ...] = ()
    loopback: bool = True
    mirrors: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    certificates: tuple[str, ...] = ("/etc/lading/certs.d", "/etc/docker/certs.d")
    proxies: bool = True
    downloads: int = 3
    uploads: int = 5
    attempts: int = 6
    connect_timeout: float = 15.0
    stall_timeout: float = 30.0
    first_delay: float = 0.25
    longest_delay: float = 15.0

    def __attrs_post_init__(self) -> None:
        for entry in self.insecure:
            if _network(entry) is None and _HOST.fullmatch(entry) is None:
                raise Invalid(
                    "insecure registry", entry, "it is neither host[:port] nor a network as in 10.0.0.0/8"
                )
        for urls in self.mirrors.values():
            for url in urls:
                _mirror(url)
        for name in ("downloads", "uploads", "attempts"):
            if getattr(self, name) < 1:
                raise Invalid(f"limit {name}", getattr(self, name), "it must be 1 or more")
        for name in ("connect_timeout", "stall_timeout"):
            if not 0 < getattr(self, name) < 86_400:
                raise Invalid(f"limit {name}", getattr(self, name), "it must be more than 0 and less than a day")
        for name in ("first_delay", "longest_delay"):
            if not 0 <= getattr(self, name) < 86_400:
                raise Invalid(f"limit {name}", getattr(self, name), "it must be from 0 to less than a day")

    def is_insecure(self, host: str) -> bool:
        """Whether ``host`` (``host[:port]``) may be spoken to without knowing who answers.

        Networks are compared with addresses as they are written; a name is not looked up for it.
        """
        if self.loopback and is_loopback(host):
            return True
        name = host_name(host)
        address = written_address(name)
        for entry in self.insecure:
            network = _network(entry)
            if network is None:
                if entry.lower() in (host.lower(), name):
                    return True
            elif address is not None and address in network:
                return True
        return False

    def endpoint(self, domain: str) -> Endpoint:
        """Where the registry of ``domain`` itself answers."""
        host = default_endpoint(domain)
        return Endpoint(host, "" if self.is_insecure(host) else "https")

    def mirror_endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """Where else the images of ``domain`` can be had, to be asked in this order before it."""
        return tuple(_mirror(url) for url in self.mirrors.get(domain, ()))


def default_endpoint(domain: str) -> str:
    """The host that answers for ``domain``.

    Docker Hub is called by one name and answers at another (moby, ``daemon/pkg/registry/config.go``).
    """
    return f"registry-1.{domain}" if domain == _DEFAULT_DOMAIN else domain


def host_name(host: str) -> str:
    """``host`` without its port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by its written name or address."""
    name = host_name(host)
    address = written_address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def load_settings(path: str | os.PathLike[str] = SETTINGS_PATH) -> RegistrySettings:
    """The settings in the file ``path``; the defaults if there is none. ``Invalid`` says what is wrong in it."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        return RegistrySettings()
    except OSError as error:
        raise HostError("read the registries' settings", os.fspath(path), error.errno or 0) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid("registries' settings", os.fspath(path), f"it is no TOML: {error}") from None
    return _settings(document, os.fspath(path))


def _settings(document: dict[str, Any], path: str) -> RegistrySettings:
    limits = document.pop("limits", {})
    mirrors = document.pop("mirrors", {})
    if not isinstance(limits, dict) or not isinstance(mirrors, dict):
        raise Invalid("registries' settings", path, "limits and mirrors are tables")
    values: dict[str, Any] = {"mirrors": {domain: _texts(urls, path) for domain, urls in mirrors.items()}}
    for name, value in document.items():
        if name in ("insecure", "certificates"):
            values[name] = _texts(value, path)
        elif name in ("loopback", "proxies") and isinstance(value, bool):
            values[name] = value
        else:
            raise Invalid("registries' settings", path, f"nothing is called {name!r}, or it has another type")
    for name, value in limits.items():
        if name in ("downloads", "uploads", "attempts") and type(value) is int:
            values[name] = value
        elif name.endswith(("_timeout", "_delay")) and name in _LIMITS and type(value) in (int, float):
            values[name] = float(value)
        else:
            raise Invalid("registries' settings", path, f"no limit is called {name!r}, or it has another type")
    return RegistrySettings(**values)


_LIMITS = frozenset(field.name for field in attrs.fields(RegistrySettings))


def _texts(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Invalid("registries' settings", path, f"{str(value)[:60]!r} is not a list of strings")
    return tuple(value)


def _mirror(url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if (
        parts.scheme not in ("http", "https")
        or _HOST.fullmatch(parts.netloc) is None
        or parts.path not in ("", "/")
    ):
        raise Invalid("mirror", url, "a mirror is https://host[:port], without a user or a path")
    return Endpoint(parts.netloc, parts.scheme, mirror=True)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def written_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``text`` is, if it is no name; also one that only resolvers know (``0x7f.1``)."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        if _NUMBERS.fullmatch(text) is None:
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except OSError:
            return None
    return getattr(found, "ipv4_mapped", None) or found
