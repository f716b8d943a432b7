"""An image's config: its shapes are checked, its values are data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import texts

from lading.events.errors import ImageInvalid
from lading.events.image import ImageConfig
from lading.events.imageconfig import Healthcheck, HistoryEntry, ParsedConfig, parse_config
from lading.events.manifest import MANIFEST_LIMIT

D = "sha256:" + "d" * 64
ROOTFS = {"type": "layers", "diff_ids": [D]}


def whole(**more: Any) -> dict[str, Any]:
    return {"architecture": "amd64", "os": "linux", "rootfs": ROOTFS} | more


def parsed(document: Any) -> ParsedConfig:
    return parse_config(json.dumps(document).encode())


def refusal(document: Any) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ImageInvalid) as caught:
        parse_config(raw)
    return str(caught.value)


def test_a_config_has_all_that_docker_writes() -> None:
    document = whole(
        created="2024-05-06T07:08:09.123456789Z",
        author="A",
        variant="v2",
        comment="C",
        docker_version="1",
        container="c0ffee",
        container_config={"Cmd": ["old"]},
        config={
            "Hostname": "",
            "AttachStdin": False,
            "User": "1000:1000",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Env": ["PATH=/bin", "A=b=c"],
            "Cmd": ["sh", "-c", "true"],
            "Entrypoint": ["/entry"],
            "Volumes": {"/data": {}},
            "WorkingDir": "/srv",
            "Labels": {"a": "b"},
            "StopSignal": "SIGQUIT",
            "Shell": ["/bin/bash", "-c"],
            "OnBuild": ["RUN true"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000, "Retries": 3},
            "ArgsEscaped": True,
        },
        history=[
            {"created": "2024-05-06T07:08:09+02:00", "created_by": "ADD x", "comment": "c"},
            {"created_by": "ENV A=b", "author": "B", "empty_layer": True},
        ],
    )
    assert parsed(document) == ParsedConfig(
        ImageConfig(
            entrypoint=("/entry",),
            cmd=("sh", "-c", "true"),
            env=("PATH=/bin", "A=b=c"),
            working_dir="/srv",
            user="1000:1000",
            labels={"a": "b"},
            exposed_ports=("53/udp", "80/tcp"),
            volumes=("/data",),
            stop_signal="SIGQUIT",
        ),
        (D,),
        created="2024-05-06T07:08:09.123456789Z",
        architecture="amd64",
        os="linux",
        variant="v2",
        author="A",
        comment="C",
        history=(
            HistoryEntry("2024-05-06T07:08:09+02:00", "ADD x", comment="c"),
            HistoryEntry(created_by="ENV A=b", author="B", empty_layer=True),
        ),
        shell=("/bin/bash", "-c"),
        on_build=("RUN true",),
        healthcheck=Healthcheck(("CMD", "true"), interval=30_000_000_000, retries=3),
    )


def test_missing_and_null_are_the_same() -> None:
    empty = ParsedConfig(ImageConfig(), (), architecture="", os="")
    assert parsed({"rootfs": {"type": "layers"}}) == empty
    names = ("created", "author", "architecture", "os", "variant", "config", "history", "comment")
    assert parsed({"rootfs": {"type": "layers", "diff_ids": None}} | dict.fromkeys(names)) == empty
    names = (
        *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
        *("Shell", "OnBuild", "Healthcheck"),
    )
    assert parsed(whole(config=dict.fromkeys(names))) == parsed(whole())


def test_a_command_may_be_one_string() -> None:
    """As Docker's ``strslice`` reads it; early builders wrote such configs."""
    assert parsed(whole(config={"Cmd": "sh", "Entrypoint": "/e"})).config == ImageConfig(
        entrypoint=("/e",), cmd=("sh",)
    )


def test_values_are_data_whatever_they_are() -> None:
    """M10: nothing of this is judged or changed here."""
    config = {
        "User": "4294967296:١",
        "Env": ["", "=", "=x", "A", "B=\n", "C=\0", "A=2", "A=1"],
        "WorkingDir": "../../proc/self/fd/9",
        "Volumes": {"/../../etc": {}, "": None},
        "Labels": {"run.oci.hooks.stdout": "/victim", "": ""},
        "StopSignal": "SIG\u202e",
        "ExposedPorts": {"99999/xyz": {}},
    }
    found = parsed(whole(config=config)).config
    assert found.user == config["User"]
    assert list(found.env) == config["Env"]
    assert found.working_dir == config["WorkingDir"]
    assert found.volumes == ("", "/../../etc")
    assert found.labels == config["Labels"]
    assert found.stop_signal == config["StopSignal"]
    assert found.exposed_ports == ("99999/xyz",)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"architecture": "amd64", "os": "linux"}, "no rootfs"),
        (whole(rootfs=None), "no rootfs"),
        (whole(rootfs=[]), "not an object"),
        (whole(rootfs={"diff_ids": []}), "not 'layers'"),
        (whole(rootfs={"type": "zfs", "diff_ids": []}), "'zfs'"),
        (whole(rootfs={"type": "layers", "diff_ids": D}), "not a list"),
        (whole(rootfs={"type": "layers", "diff_ids": [5]}), "list of strings"),
        (whole(rootfs={"type": "layers", "diff_ids": ["sha256:../../x"]}), "64 lower-case"),
        (whole(rootfs={"type": "layers", "diff_ids": ["sha512:" + "d" * 128]}), "only sha256"),
        (whole(rootfs={"type": "layers", "diff_ids": [D] * 1001}), "1000"),
        (whole(rootfs=ROOTFS | {"Diff_IDs": []}), "'Diff_IDs'"),
        (whole(Config={}), "'Config'"),
        (whole(config={"user": "root"}), "'user'"),
        (whole(config={"entrypoint": []}), "'entrypoint'"),
        (whole(config=[]), "not an object"),
        (whole(config={"User": 0}), "not a string"),
        (whole(config={"Env": {}}), "not a list"),
        (whole(config={"Env": [1]}), "list of strings"),
        (whole(config={"Env": ["A=b"] * 10_001}), "10000"),
        (whole(config={"Cmd": [None]}), "list of strings"),
        (whole(config={"Cmd": 5}), "not a list"),
        (whole(config={"Labels": ["a"]}), "not an object"),
        (whole(config={"Labels": {"a": 1}}), "object of strings"),
        (whole(config={"Volumes": ["/a"]}), "not an object"),
        (whole(config={"ExposedPorts": {"80": 1}}), "empty objects"),
        (whole(config={"Healthcheck": []}), "not an object"),
        (whole(config={"Healthcheck": {"Interval": 1.5}}), "whole number"),
        (whole(config={"Healthcheck": {"Interval": True}}), "whole number"),
        (whole(config={"Healthcheck": {"Retries": 2**63}}), "64 bits"),
        (whole(config={"Healthcheck": {"test": []}}), "'test'"),
        (whole(created="yesterday"), "RFC 3339"),
        (whole(created="2024-13-01T00:00:00Z"), "RFC 3339"),
        (whole(created="2024-01-01T00:00:00Z\n"), "RFC 3339"),
        (whole(created=5), "not a string"),
        (whole(os=["linux"]), "not a string"),
        (whole(history={}), "not a list"),
        (whole(history=["x"]), "not an object"),
        (whole(history=[{"empty_layer": 1}]), "true or false"),
        (whole(history=[{"created": "x"}]), "RFC 3339"),
        (whole(history=[{}] * 10_001), "10000"),
        (whole(x="a" * MANIFEST_LIMIT), "longer"),
        ([], "object"),
        (b"", "JSON"),
        (b'{"rootfs": {"type": "layers"}, "os": "a", "os": "b"}', "twice"),
        (b'{"rootfs": {"type": "layers"}, "x": NaN}', "NaN"),
        (b'{"rootfs": {"type": "layers"}, "x": "\\udfff"}', "surrogate"),
        (b'\xef\xbb\xbf{"rootfs": {"type": "layers"}}', "BOM"),
        (b"[" * 100_000, "nested"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{len(str(value))} characters",
)
def test_a_wrong_shape_is_refused(document: Any, why: str) -> None:
    """M3, M4, M6."""
    assert why in refusal(document)


def quiet(raw: bytes) -> None:
    try:
        parse_config(raw)
    except ImageInvalid as error:
        str(error).encode()  # the message can be sent to anybody


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_being_refused(raw: bytes) -> None:
    quiet(raw)
    good = json.dumps(whole(config={"Env": ["A=b"]})).encode()
    quiet(good[: len(raw)] + raw + good[len(raw) :])


NAMES = (
    *("created", "author", "os", "config", "rootfs", "history", "type", "diff_ids", "User", "ExposedPorts", "Env"),
    *("Entrypoint", "Cmd", "Volumes", "Labels", "Healthcheck", "Test", "Interval", "empty_layer", "created_by"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | texts, inner, max_size=4),
    max_leaves=20,
)
fields = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=6)


@given(fields, st.sampled_from(("top", "config", "rootfs", "history", "Healthcheck")))
def test_no_document_does_more_than_being_refused(some: dict[str, Any], where: str) -> None:
    document = {
        "top": whole() | some,
        "config": whole(config=some),
        "rootfs": whole(rootfs=ROOTFS | some),
        "history": whole(history=[some]),
        "Healthcheck": whole(config={"Healthcheck": some}),
    }[where]
    quiet(json.dumps(document).encode())
