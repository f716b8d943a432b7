"""An image's config: what it says about running it, and of which layers it is made, read without trust.

Sources: OCI image-spec v1.1, config.md, and Docker's image specification v1.2 and later (``Healthcheck``,
``Shell``, ``OnBuild``). Shapes and sizes are checked here. Values are data: a user, a path, a label or a variable
means something only where a container is made of it, and is judged there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import attrs

from lading.events.errors import ImageInvalid
from lading.events.ids import Digest
from lading.events.image import ImageConfig
from lading.events.manifest import MANIFEST_LIMIT, check_image_digest
from lading.events.strictjson import parse_object

__all__ = ["Healthcheck", "HistoryEntry", "ParsedConfig", "parse_config"]

_LAYERS_LIMIT = 1000
_HISTORY_LIMIT = 10_000
_ITEMS_LIMIT = 10_000
_TIME = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
                   r"(\.[0-9]{1,30})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])")  # fmt: skip


@attrs.frozen
class Healthcheck:
    """How to find out whether a container is well. Times in nanoseconds; 0 and no ``test``: inherited."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@attrs.frozen
class HistoryEntry:
    """How one layer came to be, or, with ``empty_layer``, what else was changed.

    ``created``: RFC 3339, or empty.
    """

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@attrs.frozen
class ParsedConfig:
    """A whole config. ``diff_ids``: digests of the layers' plain archives, the lowest first.

    ``created``: RFC 3339 or empty. ``architecture``, ``os`` and ``variant``: as written, not normalised.
    """

    config: ImageConfig
    diff_ids: tuple[Digest, ...]
    created: str = ""
    architecture: str = ""
    os: str = ""
    variant: str = ""
    author: str = ""
    comment: str = ""
    history: tuple[HistoryEntry, ...] = ()
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None


def parse_config(content: bytes) -> ParsedConfig:
    """The config that ``content`` is; otherwise ``ImageInvalid``. At most 4 MiB, 1000 layers."""
    if len(content) > MANIFEST_LIMIT:
        raise ImageInvalid(f"the image's config is longer than {MANIFEST_LIMIT} bytes")
    try:
        document = parse_object(content)
    except ValueError as error:
        raise ImageInvalid(f"the image's config is no JSON document: {error}") from None
    top = _Fields(
        document,
        "the image's config",
        ("created", "author", "architecture", "os", "variant", "config", "rootfs", "history", "comment"),
    )
    run = _Fields(
        top.object("config"),
        "config of the image's config",
        (
            *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
            *("Shell", "OnBuild", "Healthcheck"),
        ),
    )
    return ParsedConfig(
        ImageConfig(
            entrypoint=run.command("Entrypoint"),
            cmd=run.command("Cmd"),
            env=run.texts("Env"),
            working_dir=run.text("WorkingDir"),
            user=run.text("User"),
            labels=run.mapping("Labels"),
            exposed_ports=run.names("ExposedPorts"),
            volumes=run.names("Volumes"),
            stop_signal=run.text("StopSignal"),
        ),
        _diff_ids(top),
        created=top.time("created"),
        architecture=top.text("architecture"),
        os=top.text("os"),
        variant=top.text("variant"),
        author=top.text("author"),
        comment=top.text("comment"),
        history=_history(top),
        shell=run.command("Shell"),
        on_build=run.texts("OnBuild"),
        healthcheck=_healthcheck(run),
    )


def _diff_ids(top: _Fields) -> tuple[Digest, ...]:
    if top.values.get("rootfs") is None:
        raise ImageInvalid("the image's config has no rootfs, so it is not one of an image")
    rootfs = _Fields(top.object("rootfs"), "rootfs of the image's config", ("type", "diff_ids"))
    if rootfs.text("type") != "layers":
        raise ImageInvalid(f"rootfs of the image's config has the type {rootfs.text('type')[:40]!r}, not 'layers'")
    return tuple(
        check_image_digest(each, f"diff_ids[{number}] of the image's config")
        for number, each in enumerate(rootfs.texts("diff_ids", _LAYERS_LIMIT))
    )


def _history(top: _Fields) -> tuple[HistoryEntry, ...]:
    entries = []
    for number, each in enumerate(top.list("history", _HISTORY_LIMIT)):
        where = f"history[{number}] of the image's config"
        if not isinstance(each, dict):
            raise ImageInvalid(f"{where} is not an object")
        entry = _Fields(each, where, ("created", "created_by", "author", "comment", "empty_layer"))
        entries.append(
            HistoryEntry(
                entry.time("created"),
                entry.text("created_by"),
                entry.text("author"),
                entry.text("comment"),
                entry.flag("empty_layer"),
            )
        )
    return tuple(entries)


def _healthcheck(run: _Fields) -> Healthcheck | None:
    if run.values.get("Healthcheck") is None:
        return None
    names = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
    check = _Fields(run.object("Healthcheck"), "Healthcheck of the image's config", names)
    return Healthcheck(check.texts("Test"), *(check.whole(name) for name in names[1:]))


T = TypeVar("T")


class _Fields:
    """One object of the document, each field of which has the type that it must have, or ``ImageInvalid``.

    A missing field and null are the same: Go writes null for what is empty.
    """

    def __init__(self, values: dict[str, Any], where: str, names: tuple[str, ...]) -> None:
        self.values = values
        self.where = where
        exact = {name.casefold(): name for name in names}
        for name in values:
            if exact.get(name.casefold(), name) != name:
                raise ImageInvalid(f"{where} has the field {name[:40]!r}, which readers take for another or don't")

    def _get(self, name: str, kind: type[T], empty: Callable[[], T], words: str) -> T:
        value = self.values.get(name)
        if value is None:
            return empty()
        if type(value) is not kind:
            self._wrong(name, words)
        return value

    def _wrong(self, name: str, words: str) -> NoReturn:
        raise ImageInvalid(f"{name} of {self.where} is not {words}")

    def text(self, name: str) -> str:
        return self._get(name, str, str, "a string")

    def flag(self, name: str) -> bool:
        return self._get(name, bool, bool, "true or false")

    def whole(self, name: str) -> int:
        value = self._get(name, int, int, "a whole number")
        if not -(1 << 63) <= value < 1 << 63:
            self._wrong(name, "a whole number of 64 bits")
        return value

    def time(self, name: str) -> str:
        value = self.text(name)
        if value and _TIME.fullmatch(value) is None:
            self._wrong(name, "a time as in RFC 3339")
        return value

    def object(self, name: str, limit: int = _ITEMS_LIMIT) -> dict[str, Any]:
        value: dict[str, Any] = self._get(name, dict, dict, "an object")
        if len(value) > limit:
            self._wrong(name, f"an object of at most {limit} fields")
        return value

    def list(self, name: str, limit: int) -> list[Any]:
        value: list[Any] = self._get(name, list, list, "a list")
        if len(value) > limit:
            self._wrong(name, f"a list of at most {limit} items")
        return value

    def texts(self, name: str, limit: int = _ITEMS_LIMIT) -> tuple[str, ...]:
        value = self.list(name, limit)
        if not all(type(each) is str for each in value):
            self._wrong(name, "a list of strings")
        return tuple(value)

    def command(self, name: str) -> tuple[str, ...]:
        """A list, or one string alone, as Docker's ``strslice`` reads it."""
        value = self.values.get(name)
        return (value,) if type(value) is str else self.texts(name)

    def mapping(self, name: str) -> Mapping[str, str]:
        value = self.object(name)
        if not all(type(each) is str for each in value.values()):
            self._wrong(name, "an object of strings")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """The keys of an object whose values mean nothing (a set, as Go writes it), sorted."""
        value = self.object(name)
        if not all(each is None or type(each) is dict for each in value.values()):
            self._wrong(name, "an object of empty objects")
        return tuple(sorted(value))
