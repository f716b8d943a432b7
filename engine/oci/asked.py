"""From a container's settings to what the runtime is told: Docker's words become those of the specification.

The counterpart of moby's ``daemon/oci_linux.go``. What names things of the container itself, its groups, is looked
up in its mounted root; what names things of the host, devices and the init program, is looked up here and now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from lading.engine.oci.config import UNLIMITED, BundleSpec, Host, LinuxSpec, MountEntry
from lading.engine.oci.devices import every_device, find_devices, find_throttles
from lading.engine.oci.identity import resolve_groups
from lading.engine.oci.initprogram import INIT_PLACE, find_init
from lading.engine.oci.linux import HostDevice
from lading.events.privileges import DeviceRule, capabilities_of, device_rule
from lading.events.settingchecks import UNCONFINED, check_settings
from lading.events.settings import DEFAULT_SHM_SIZE, ContainerSettings, Ulimit

__all__ = ["with_settings"]

_SHARED_SHM: Final = MountEntry("/dev/shm", "bind", "/dev/shm", ("rbind", "rprivate"))


def with_settings(spec: BundleSpec, settings: ContainerSettings, host: Host) -> BundleSpec:
    """``spec``, which is otherwise complete and whose root is mounted, with what ``settings`` ask for.

    Raises ``Invalid`` for a group that the image doesn't have and for settings that can't be, which a log from
    elsewhere may have, and ``HostError`` for a device or a program that isn't there.
    """
    check_settings(settings, spec.network)
    shared = frozenset(
        name
        for name, mode in (
            ("pid", settings.pid_mode),
            ("ipc", settings.ipc_mode),
            ("uts", settings.uts_mode),
            ("cgroup", settings.cgroupns_mode),
        )
        if mode == "host"
    )
    mounts = spec.mounts
    if settings.ipc_mode == "host" and all(entry.destination != "/dev/shm" for entry in mounts):
        mounts = (_SHARED_SHM, *mounts)
    args = spec.args
    if settings.init and "pid" not in shared:  # in the host's there is one already
        mounts = (*mounts, MountEntry(INIT_PLACE, "bind", find_init(), ("bind", "ro")))
        args = (INIT_PLACE, "--", *args)
    capabilities = capabilities_of(settings.cap_add, settings.cap_drop, privileged=settings.privileged)
    profile = "" if settings.seccomp == UNCONFINED else settings.seccomp
    limits = {limit.name: limit for limit in settings.ulimits}
    return attrs.evolve(
        spec,
        args=args,
        terminal=settings.tty,
        hostname=None if "uts" in shared else spec.hostname,
        additional_gids=tuple(
            dict.fromkeys((*spec.additional_gids, *resolve_groups(spec.rootfs, settings.groups)))
        ),
        capabilities=capabilities & host.capabilities,
        no_new_privileges=settings.no_new_privileges,
        mounts=mounts,
        shm_size=settings.shm_size or DEFAULT_SHM_SIZE,
        seccomp=bool(profile) or not (settings.privileged or settings.seccomp),
        nofile=_nofile(limits, spec.nofile),
        rlimits=tuple(
            (limit.name, limit.soft, limit.hard) for limit in settings.ulimits if limit.name != "nofile"
        ),
        oom_score=settings.oom_score,
        writable_sys=settings.privileged,
        hidden=frozenset(("/dev/shm",)) if settings.ipc_mode == "none" else frozenset(),
        linux=_linux(settings, shared, profile),
    )


def _nofile(limits: Mapping[str, Ulimit], usual: tuple[int, int]) -> tuple[int, int]:
    asked = limits.get("nofile")
    if asked is None:
        return usual
    return (UNLIMITED if asked.soft < 0 else asked.soft, UNLIMITED if asked.hard < 0 else asked.hard)


def _linux(settings: ContainerSettings, shared: frozenset[str], profile: str) -> LinuxSpec:
    devices, rules = _devices(settings)
    masked, readonly = settings.masked, settings.readonly
    if settings.privileged:  # unless it says which
        masked, readonly = masked or (), readonly or ()
    sysctls = dict(settings.sysctls)
    if settings.domainname:
        # The specification's field is younger than the runtimes; the sysctl is what it does (moby, too).
        sysctls["kernel.domainname"] = settings.domainname
    return LinuxSpec(
        resources=settings.resources,
        throttles=find_throttles(settings.resources),
        devices=devices,
        rules=rules,
        every_device=settings.privileged,
        sysctls=tuple(sysctls.items()),
        shared=shared,
        own_cgroup=settings.cgroupns_mode == "private",
        masked=masked,
        readonly=readonly,
        profile=profile,
    )


def _devices(settings: ContainerSettings) -> tuple[tuple[HostDevice, ...], tuple[DeviceRule, ...]]:
    if not settings.privileged:
        devices, rules = find_devices(settings.devices)
        return devices, (*rules, *(device_rule(rule) for rule in settings.device_rules))
    named, _ = find_devices(tuple(device for device in settings.devices if device.target != device.path))
    places = {device.path for device in named}
    return (*(device for device in every_device() if device.path not in places), *named), ()
