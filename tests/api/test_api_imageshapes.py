"""What an image says of itself, in the shapes that clients read, whatever it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.engine.api.imageshapes import image_inspect, image_summary
from lading.events.ids import ChainId, Digest, ImageId
from lading.events.image import ImageConfig, ImageState
from lading.storage.store import Paths

ID = "sha256:" + "1b" * 32
TAG = "docker.io/library/web:1"
STATE = ImageState(
    ImageId(ID),
    (ChainId(ID),),
    (Digest(ID),),
    ImageConfig(cmd=("sh",), labels={"k": "v"}),
    "2024-01-02T03:04:05Z",
    "amd64",
    "linux",
    "pull",
    "",
    7,
    1000,
    (TAG, f"docker.io/library/web@{ID}"),
)
PATHS = Paths(Path("/store"), Path("/run/store"))

TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("Hostname", "Domainname", "User", "Image", "WorkingDir", "StopSignal", "MacAddress"), (str,)),
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), (bool,)),
    **dict.fromkeys(("ArgsEscaped", "NetworkDisabled"), (bool,)),
    **dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"), (list, type(None))),
    **dict.fromkeys(("Volumes", "ExposedPorts", "Labels", "Healthcheck"), (dict, type(None))),
    "StopTimeout": (int,),
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.sampled_from([*TYPES, "Other"]), values)


@given(configs, configs)
def test_a_field_has_the_type_that_clients_expect_or_is_left_out(config: Any, container: Any) -> None:
    document = json.dumps({"config": config, "container_config": container, "variant": 5, "history": [1]}).encode()
    shown = image_inspect(STATE, document, PATHS, 0, (1, 40))
    for each in (shown["Config"], shown["ContainerConfig"]):
        assert each.keys() <= TYPES.keys()
        assert all(type(value) in TYPES[name] for name, value in each.items())
        for name in ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"):
            assert all(type(word) is str for word in each.get(name) or ())
        assert all(type(value) is str for value in (each["Labels"] or {}).values())
    assert "Variant" not in shown


def test_a_command_that_is_a_string_is_a_list_of_it() -> None:
    document = json.dumps({"config": {"Cmd": "sh", "Entrypoint": ["a", "b"], "Shell": "x"}}).encode()
    config = image_inspect(STATE, document, PATHS, 0, None)["Config"]
    assert (config["Cmd"], config["Entrypoint"], config["Shell"]) == (["sh"], ["a", "b"], ["x"])


def test_an_image_that_is_gone_since_is_told_by_what_the_log_knows() -> None:
    shown = image_inspect(STATE, None, PATHS, 0, None)
    assert (shown["Config"]["Cmd"], shown["Config"]["Labels"], shown["Created"]) == (
        ["sh"],
        {"k": "v"},
        "2024-01-02T03:04:05Z",
    )
    assert (shown["RepoTags"], shown["RepoDigests"]) == (["web:1"], [f"web@{ID}"])


@pytest.mark.parametrize(
    ("version", "tags", "digests", "virtual"),
    [
        (None, [], [], False),
        ((1, 47), [], [], False),
        ((1, 43), [], [], True),
        ((1, 42), ["<none>:<none>"], ["<none>@<none>"], True),
    ],
)
def test_older_versions_get_what_they_got(version: Any, tags: Any, digests: Any, virtual: bool) -> None:
    shown = image_summary(STATE, (), version)
    assert (shown["RepoTags"], shown["RepoDigests"], "VirtualSize" in shown) == (tags, digests, virtual)
    assert image_summary(STATE, STATE.tags, version)["RepoTags"] == ["web:1"]
    assert (shown["Containers"], shown["SharedSize"], shown["Created"]) == (-1, -1, 1704164645)
