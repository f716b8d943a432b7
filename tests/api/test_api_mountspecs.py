"""Docker's grammar of mounts: what each way to say one means, and the words for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.engine.api.mountspecs import parse_mounts, parse_spec
from lading.engine.api.volumeshapes import host_config_mounts, mount_points
from lading.engine.cli.mountflags import mount_request, parse_mount
from lading.engine.http.message import HttpError
from lading.engine.volumes.mounts import check_target, parse_volumes_from, tmpfs_options
from lading.events.errors import Invalid
from lading.events.settings import ContainerSettings, Mount
from lading.events.volume import check_volume_name
from lading.storage.store import Paths

BIND = Mount("bind", "/host", "/here", options=("create",))
NAMED = Mount("volume", "name", "/here")

SPECS = {
    "/here": Mount("volume", "", "/here"),
    "name:/here": NAMED,
    "name:/here:rw": NAMED,
    "name:/here:": NAMED,
    "name:/here:ro": attrs.evolve(NAMED, read_only=True),
    "name:/here:z,ro": attrs.evolve(NAMED, read_only=True),
    "name:/here:nocopy,Z": attrs.evolve(NAMED, copy=False),
    "name:/here:copy": NAMED,
    "/host:/here": BIND,
    "/host:/here:cached": BIND,
    "/host:/here:ro,rslave": attrs.evolve(BIND, read_only=True, propagation="rslave"),
    "/host:/here:rro": attrs.evolve(BIND, read_only=True, options=("create", "ro-force-recursive")),
    "/host:/here:ro-non-recursive": attrs.evolve(BIND, read_only=True, options=("create", "ro-non-recursive")),
}


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec(spec: str) -> None:
    assert parse_spec(spec) == SPECS[spec]


WRONG_SPECS = {
    "": "invalid volume specification: ''",
    ":/here": "invalid volume specification: ':/here'",
    "name:": "invalid volume specification: 'name:'",
    "/here:ro": "invalid volume specification: '/here:ro'",
    "a:/b:rw:x": "invalid volume specification: 'a:/b:rw:x'",
    "name:/here:rw,ro": "invalid mode: rw,ro",
    "name:/here:what": "invalid mode: what",
    "name:/here:z,Z": "invalid mode: z,Z",
    "name:/here:,": "invalid mode: ,",
    "name:/": "destination can't be '/'",
    "name:/..": "destination can't be '/'",
    "/": "destination can't be '/'",
    "name:here": "mount path must be absolute",
    "here": "mount path must be absolute",
    "../up:/here": "includes invalid characters for a local volume name",
    "a/b:/here": "includes invalid characters for a local volume name",
    "ab\n:/here": "includes invalid characters for a local volume name",
    "x:/here": "volume name is too short",
    "name:/here:rslave": "field BindOptions must not be specified",
    "/host:/here:nocopy": "field VolumeOptions must not be specified",
}


@pytest.mark.parametrize("spec", WRONG_SPECS)
def test_a_spec_that_is_none(spec: str) -> None:
    with pytest.raises(HttpError) as refused:
        parse_spec(spec)
    assert refused.value.status == 400
    assert WRONG_SPECS[spec] in refused.value.message


def parsed(**asked: Any) -> Mount:
    [mount] = parse_mounts({"HostConfig": {"Mounts": [asked]}})[0]
    return mount


def test_mounts_as_objects(tmp_path: Path) -> None:
    source = str(tmp_path)
    assert parsed(Type="bind", Source=source, Target="/x", BindOptions={}) == Mount("bind", source, "/x")
    options: dict[str, Any] = {"Propagation": "shared", "NonRecursive": True, "CreateMountpoint": True}
    assert parsed(Type="bind", Source="/no/such", Target="/x", BindOptions=options) == Mount(
        "bind", "/no/such", "/x", propagation="shared", recursive=False, options=("create",)
    )
    force = {"ReadOnlyForceRecursive": True}
    assert parsed(Type="bind", Source=source, Target="/x", ReadOnly=True, BindOptions=force) == Mount(
        "bind", source, "/x", read_only=True, options=("ro-force-recursive",)
    )
    assert parsed(Type="volume", Target="/x") == Mount("volume", "", "/x")
    driver = {"Name": "local", "Options": {"type": "tmpfs"}}
    options = {"NoCopy": True, "Labels": {"a": "b"}, "DriverConfig": driver, "Subpath": "in/it"}
    assert parsed(Type="volume", Source="name", Target="/x", VolumeOptions=options) == Mount(
        "volume", "name", "/x", copy=False, subpath="in/it", options=("label:a=b", "option:type=tmpfs")
    )
    options = {"SizeBytes": 1 << 20, "Mode": 0o700, "Options": [["exec"]]}
    assert parsed(Type="tmpfs", Target="/x", ReadOnly=True, TmpfsOptions=options) == Mount(
        "tmpfs", "", "/x", read_only=True, size=1 << 20, mode=0o700, options=("exec",)
    )


WRONG_MOUNTS: list[tuple[dict[str, Any], str]] = [
    ({"Type": "bind", "Source": "/tmp"}, "field Target must not be empty"),
    ({"Type": "bind", "Target": "/x"}, "field Source must not be empty"),
    ({"Type": "bind", "Source": "/tmp", "Target": "/"}, "destination can't be '/'"),
    ({"Type": "bind", "Source": "/tmp", "Target": "x"}, "mount path must be absolute"),
    ({"Type": "bind", "Source": "tmp", "Target": "/x"}, "mount path must be absolute"),
    ({"Type": "bind", "Source": "/no/such", "Target": "/x"}, "bind source path does not exist: /no/such"),
    ({"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {"NoCopy": True}}, "field VolumeOptions"),
    (
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "no"}},
        "invalid propagation mode: no",
    ),
    (
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"ReadOnlyNonRecursive": True}},
        "must be read-only",
    ),
    ({"Type": "volume", "Source": "../x", "Target": "/x"}, "includes invalid characters"),
    (
        {"Type": "volume", "Target": "/x", "ReadOnly": True},
        "must not set ReadOnly mode when using anonymous volumes",
    ),
    ({"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}}, "must not set Subpath"),
    ({"Type": "volume", "Source": "name", "Target": "/x", "VolumeOptions": {"Subpath": "../a"}}, "relative path"),
    (
        {"Type": "volume", "Source": "name", "Target": "/x", "BindOptions": {"NonRecursive": True}},
        "field BindOptions",
    ),
    (
        {"Type": "volume", "Source": "name", "Target": "/x", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}},
        "does not exist",
    ),
    ({"Type": "tmpfs", "Source": "name", "Target": "/x"}, "field Source must not be specified"),
    ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": -1}}, "invalid SizeBytes"),
    ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["evil"]]}}, "invalid option: evil"),
    ({"Type": "image", "Source": "name", "Target": "/x"}, "mount type unknown"),
    ({"Source": "name", "Target": "/x"}, "mount type unknown"),
    ({"Type": 1, "Target": "/x"}, "invalid Type"),
    ({"Type": "bind", "Source": "/a\0b", "Target": "/x"}, "does not exist"),
]


@pytest.mark.parametrize("case", range(len(WRONG_MOUNTS)))
def test_mounts_that_are_none(case: int) -> None:
    asked, words = WRONG_MOUNTS[case]
    with pytest.raises(HttpError) as refused:
        parsed(**asked)
    assert refused.value.status == 400
    assert words in refused.value.message


def test_the_other_ways_to_say_it() -> None:
    body = {
        "Volumes": {"/own": {}},
        "HostConfig": {
            "Tmpfs": {"/t": "size=64m,exec,ro", "/u": ""},
            "VolumesFrom": ["one", "two:ro"],
            "Binds": ["name:/a"],
            "VolumeDriver": "local",
        },
    }
    mounts, wanted = parse_mounts(body)
    assert mounts == (
        Mount("volume", "name", "/a"),
        Mount("tmpfs", "", "/t", read_only=True, options=("size=64m", "exec")),
        Mount("tmpfs", "", "/u"),
        Mount("volume", "", "/own", anonymous=True),
    )
    assert wanted == ("one", "two:ro")
    assert parse_mounts({"HostConfig": {"Binds": None, "Mounts": None, "Tmpfs": None}}) == ((), ())
    for wrong in (
        {"HostConfig": {"Tmpfs": {"/t": "evil=1"}}},
        {"HostConfig": {"Tmpfs": {"/t": None}}},
        {"HostConfig": {"VolumesFrom": ["one:rslave"]}},
        {"HostConfig": {"VolumesFrom": [""]}},
        {"HostConfig": {"Binds": ["/x"] * 2000}},
        {"HostConfig": {"Binds": "x"}},
        {"HostConfig": {"VolumeDriver": "flocker"}},
        {"Volumes": []},
    ):
        with pytest.raises(HttpError):
            parse_mounts(wrong)


@given(st.text(max_size=300))
def test_any_text_is_a_spec_or_refused(text: str) -> None:
    try:
        mount = parse_spec(text)
    except HttpError:
        return
    assert mount.kind in ("bind", "volume")
    if mount.kind == "volume" and mount.source:
        assert check_volume_name(mount.source) == mount.source


@given(st.text(max_size=30))
def test_a_volume_s_name_is_safe_in_a_path(name: str) -> None:
    try:
        checked = check_volume_name(name)
    except Invalid:
        return
    assert checked.isascii()
    assert checked not in (".", "..")
    assert not set(checked) & set("/\0\n\\:")
    assert 2 <= len(checked) <= 255


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b c", "\n", "é"]), max_size=8).map("/".join))
def test_a_target_is_absolute_and_without_steps_back(text: str) -> None:
    try:
        target = check_target(text)
    except Invalid:
        return
    assert target.startswith("/")
    assert not {"", ".", ".."} & set(target.split("/")[1:])
    assert check_target(target) == target


def test_tmpfs_options_have_docker_s_defaults() -> None:
    def options(*words: str, **more: Any) -> set[str]:
        return set(tmpfs_options(Mount("tmpfs", "", "/t", options=words, **more)))

    assert options() == {"noexec", "nosuid", "nodev", "rprivate"}
    assert options("exec", "suid") == {"exec", "suid", "nodev", "rprivate"}
    assert options(size=4096, mode=0o1777, read_only=True) == (
        {"noexec", "nosuid", "nodev", "rprivate", "ro", "size=4096", "mode=1777"}
    )
    for wrong in ("size", "size=", "exec=1", "a b", "mode=9", "mode=1000000", "size=1,exec", "uid=\0"):
        with pytest.raises(Invalid):
            options(wrong)


def test_volumes_from() -> None:
    assert parse_volumes_from("box") == ("box", False)
    assert parse_volumes_from("box:ro,z") == ("box", True)
    for wrong in ("", ":ro", "box:ro,rw", "box:nocopy", "box:shared"):
        with pytest.raises(Invalid):
            parse_volumes_from(wrong)


def test_what_inspect_shows_makes_the_same_again() -> None:
    mounts = (
        Mount("bind", "/host", "/a", read_only=True, propagation="rslave", options=("create",)),
        Mount("bind", "/tmp", "/b", recursive=False),
        Mount("volume", "name", "/c", copy=False),
        Mount("volume", "name", "/d", subpath="in", read_only=True),
        Mount("tmpfs", "", "/e", options=("size=1m", "exec")),
    )
    own = Mount("volume", "f" * 64, "/f", anonymous=True)
    shown = host_config_mounts(ContainerSettings(mounts=(*mounts, own)))
    again, _ = parse_mounts({"HostConfig": shown})
    assert set(again) == set(mounts)
    points = mount_points(ContainerSettings(mounts=(*mounts, own)), Paths(Path("/r"), Path("/run")))
    assert points[0] == {
        "Type": "bind",
        "Source": "/host",
        "Destination": "/a",
        "Mode": "",
        "RW": False,
        "Propagation": "rslave",
    }
    assert (points[-1]["Name"], points[-1]["Source"]) == ("f" * 64, f"/r/volumes/{'f' * 64}/_data")


FLAGS: list[tuple[str, dict[str, Any]]] = [
    ("dst=/x", {"Type": "volume", "Target": "/x"}),
    (
        "type=bind,src=/a,target=/x,ro,bind-propagation=rshared,bind-nonrecursive",
        {
            "Type": "bind",
            "Source": "/a",
            "Target": "/x",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rshared", "NonRecursive": True},
        },
    ),
    (
        'source=name,dst=/x,volume-nocopy=true,volume-label=a=b,"volume-opt=o=size=1m,mode=700",volume-subpath=s',
        {
            "Type": "volume",
            "Source": "name",
            "Target": "/x",
            "VolumeOptions": {
                "NoCopy": True,
                "Labels": {"a": "b"},
                "DriverConfig": {"Options": {"o": "size=1m,mode=700"}},
                "Subpath": "s",
            },
        },
    ),
    (
        "type=tmpfs,destination=/x,tmpfs-size=1.5MiB,tmpfs-mode=1770,readonly=false",
        {
            "Type": "tmpfs",
            "Target": "/x",
            "ReadOnly": False,
            "TmpfsOptions": {"SizeBytes": 3 << 19, "Mode": 0o1770},
        },
    ),
    (
        "type=bind,src=/a,dst=/x,bind-recursive=readonly,ro",
        {
            "Type": "bind",
            "Source": "/a",
            "Target": "/x",
            "ReadOnly": True,
            "BindOptions": {"ReadOnlyForceRecursive": True},
        },
    ),
]


@pytest.mark.parametrize("case", range(len(FLAGS)))
def test_the_mount_flag(case: int) -> None:
    text, expected = FLAGS[case]
    assert parse_mount(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "type=bind", "what=x,dst=/x", "dst", "dst=/x,ro=maybe", "type=,dst=/x", "dst=/x,tmpfs-size=1q"),
        *("dst=/x,bind-nonrecursive", "type=bind,dst=/x,volume-nocopy", "type=tmpfs,dst=/x,tmpfs-mode=9"),
        *("type=bind,dst=/x,bind-recursive=no", 'dst=/x,"open'),
    ],
)
def test_a_mount_flag_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_mount(text)


def test_the_flags_make_the_api_s_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    body, host = mount_request(
        volume=("/own", "name:/a", "./here:/b:ro", "../up:/c", ".:/d"),
        mount=({"Type": "tmpfs", "Target": "/t"},),
        tmpfs=("/u:size=1m", "/w"),
        volumes_from=("box:ro",),
    )
    assert body == {"Volumes": {"/own": {}}}
    assert host == {
        "Binds": ["name:/a", f"{tmp_path}/here:/b:ro", f"{tmp_path.parent}/up:/c", f"{tmp_path}:/d"],
        "Mounts": [{"Type": "tmpfs", "Target": "/t"}],
        "Tmpfs": {"/u": "size=1m", "/w": ""},
        "VolumesFrom": ["box:ro"],
    }
    assert mount_request() == ({}, {})
