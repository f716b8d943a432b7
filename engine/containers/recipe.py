"""From what a caller asks for to a container's spec."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lading.engine.oci.process import ImageProcess, ProcessRequest, merge
from lading.events.errors import Invalid
from lading.events.image import ImageState
from lading.events.reference import parse_reference
from lading.events.settings import ContainerSettings
from lading.events.signals import check_signal
from lading.events.spec import ContainerSpec, NetworkMode

__all__ = ["Recipe", "make_recipe", "make_spec"]

_LABELS = 1 << 20


@attrs.frozen(kw_only=True)
class Recipe:
    """What a container should be made from.

    ``image``: name, id or id prefix. ``command`` replaces the image's default command; ``entrypoint`` None keeps
    the image's. ``env``: a mapping, or ``K=V`` strings. ``network``: ``host`` or ``none``. ``hostname`` None: the
    host's for network ``host``, else the id's first twelve digits. ``stop_timeout``: seconds. ``settings``:
    limits, mounts, health and all that is seldom asked. ``volumes_from``: ``CONTAINER[:MODE]``.
    """

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] | tuple[str, ...] | list[str] = ()
    working_dir: str | None = None
    user: str | None = None
    hostname: str | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    network: NetworkMode = "host"
    open_stdin: bool = False
    stdin_once: bool = False
    auto_remove: bool = False
    stop_signal: str | None = None
    stop_timeout: int | None = None
    read_only: bool = False
    settings: ContainerSettings = attrs.field(factory=ContainerSettings)
    volumes_from: tuple[str, ...] = ()


_SETTINGS = frozenset(field.name for field in attrs.fields(ContainerSettings))


def make_recipe(image: str, command: Sequence[str], options: Mapping[str, Any]) -> Recipe:
    """The recipe that ``options`` ask for: fields of ``Recipe``, and of ``ContainerSettings`` by their names."""
    asked = {name: value for name, value in options.items() if name in _SETTINGS}
    rest = {name: value for name, value in options.items() if name not in _SETTINGS}
    recipe = Recipe(image=image, command=tuple(command), **rest)
    return attrs.evolve(recipe, settings=attrs.evolve(recipe.settings, **asked)) if asked else recipe


def make_spec(recipe: Recipe, image: ImageState) -> ContainerSpec:
    """The spec of a container made from ``image`` by ``recipe``. Raises ``Invalid`` for what can't be."""
    config = image.config
    if recipe.network not in ("host", "none"):
        raise Invalid("network", recipe.network, "this release has 'host' and 'none'")
    hostname = recipe.hostname
    if hostname is None:
        hostname = os.uname().nodename if recipe.network == "host" else "localhost"
    env = recipe.env
    words = tuple(f"{key}={value}" for key, value in env.items()) if isinstance(env, Mapping) else tuple(env)
    process = merge(
        ImageProcess(
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            env=config.env,
            working_dir=config.working_dir,
            user=config.user,
        ),
        ProcessRequest(
            entrypoint=recipe.entrypoint,
            cmd=recipe.command,
            env=words,
            working_dir=recipe.working_dir,
            user=recipe.user,
        ),
        hostname=hostname,
        terminal=recipe.settings.tty,
    )
    entrypoint = config.entrypoint if recipe.entrypoint is None else recipe.entrypoint
    count = len(process.args) - len(recipe.command or ()) if recipe.command else len(entrypoint)
    return ContainerSpec(
        image=image.image,
        image_name=_shown(recipe.image, image),
        layers=image.layers,
        args=process.args,
        entrypoint=process.args[:count],
        cmd=process.args[count:],
        env=process.env,
        working_dir=process.cwd,
        user=process.user,
        hostname=hostname,
        labels={**config.labels, **_checked_labels(recipe.labels)},
        network=recipe.network,
        open_stdin=recipe.open_stdin,
        stdin_once=recipe.stdin_once,
        auto_remove=recipe.auto_remove,
        stop_signal=check_signal(recipe.stop_signal or config.stop_signal or "SIGTERM"),
        stop_timeout=10 if recipe.stop_timeout is None else recipe.stop_timeout,
        read_only=recipe.read_only,
    )


def _shown(asked: str, image: ImageState) -> str:
    """The image as ``ps`` shows it: the name that was asked for, or the id."""
    if image.image.removeprefix("sha256:").startswith(asked.removeprefix("sha256:")):
        return asked
    return parse_reference(asked).familiar


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    checked = dict(labels)
    if sum(len(key) + len(value) for key, value in checked.items()) > _LABELS:
        raise Invalid("labels", f"{len(checked)} labels", f"together they may have {_LABELS} characters")
    for key, value in checked.items():
        if not key or "\0" in key + value:
            raise Invalid("label", key, "a label has a key, and no NUL byte")
    return checked
