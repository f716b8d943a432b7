"""Merging an image's process with a request's, and refusing what can't run."""

from __future__ import annotations

import pytest

from lading.engine.oci.process import DEFAULT_PATH, ImageProcess, ProcessRequest, merge, with_home, working_dir
from lading.events.errors import ImageInvalid, Invalid

PATH = f"PATH={DEFAULT_PATH}"
Words = tuple[str, ...]


@pytest.mark.parametrize(
    ("image_entrypoint", "image_cmd", "entrypoint", "cmd", "args"),
    [
        ((), ("sh",), None, None, ("sh",)),
        ((), ("sh",), None, (), ("sh",)),
        ((), ("sh",), None, ("ls", "-l"), ("ls", "-l")),
        (("tini",), ("sh",), None, None, ("tini", "sh")),
        (("tini",), ("sh",), None, ("ls",), ("tini", "ls")),
        (("tini",), ("sh",), ("env",), None, ("env",)),
        (("tini",), ("sh",), ("env",), ("-i",), ("env", "-i")),
        (("tini",), ("sh",), ("",), ("ls",), ("ls",)),
        (("tini",), ("sh",), (), None, ("sh",)),
        (("tini",), ("sh",), (), ("ls",), ("ls",)),
        (("",), ("sh",), None, None, ("sh",)),
        (("tini",), (), None, None, ("tini",)),
    ],
)
def test_entrypoint_and_command_follow_docker(
    image_entrypoint: Words, image_cmd: Words, entrypoint: Words | None, cmd: Words | None, args: Words
) -> None:
    image = ImageProcess(entrypoint=image_entrypoint, cmd=image_cmd)
    assert merge(image, ProcessRequest(entrypoint=entrypoint, cmd=cmd)).args == args


@pytest.mark.parametrize(
    ("image", "request_"),
    [
        (ImageProcess(), ProcessRequest()),
        (ImageProcess(), ProcessRequest(cmd=(), entrypoint=())),
        (ImageProcess(entrypoint=("",)), ProcessRequest()),
        (ImageProcess(entrypoint=("tini",), cmd=("sh",)), ProcessRequest(entrypoint=("",))),
    ],
)
def test_nothing_to_run_is_refused(image: ImageProcess, request_: ProcessRequest) -> None:
    with pytest.raises(Invalid, match="no command specified") as caught:
        merge(image, request_)
    assert caught.value.field == "command"


def environment(image: Words, asked: Words, *, hostname: str = "box", terminal: bool = False) -> Words:
    request = ProcessRequest(cmd=("x",), env=asked)
    return merge(ImageProcess(env=image), request, hostname=hostname, terminal=terminal).env


def test_environment_has_docker_defaults() -> None:
    assert environment((), ()) == (PATH, "HOSTNAME=box")
    assert environment((), (), terminal=True) == (PATH, "HOSTNAME=box", "TERM=xterm")
    assert environment((), (), hostname="") == (PATH,)


def test_environment_merges_by_name_and_the_request_wins() -> None:
    merged = environment(("A=image", "B=image", "PATH=/image"), ("C=asked", "A=asked"))
    assert merged == ("PATH=/image", "HOSTNAME=box", "C=asked", "A=asked", "B=image")


def test_environment_defaults_give_way() -> None:
    merged = environment(("TERM=dumb",), ("PATH=/mine", "HOSTNAME=other"), terminal=True)
    assert merged == ("PATH=/mine", "HOSTNAME=other", "TERM=dumb")


def test_a_name_given_twice_keeps_its_last_value() -> None:
    assert environment((), ("A=1", "B=2", "A=3")) == (PATH, "HOSTNAME=box", "A=3", "B=2")


def test_values_may_be_empty_and_hold_equals_signs_and_newlines() -> None:
    assert environment((), ("A=", "B=x=y", "C=l1\nl2"))[2:] == ("A=", "B=x=y", "C=l1\nl2")


def test_an_image_word_that_is_no_assignment_is_passed_over() -> None:
    assert environment(("JUNK", "", "A=1"), ()) == (PATH, "HOSTNAME=box", "A=1")


@pytest.mark.parametrize("word", ["", "=", "=x", "NOEQUALS", "A=\0", "A\0=1", "A=\udcff", "A=" + "x" * 2_100_000])
def test_a_malformed_environment_is_refused(word: str) -> None:
    with pytest.raises(Invalid) as caught:
        environment((), (word,))
    assert caught.value.field == "env"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("word", ["=", "=x", "A=\0"])
def test_a_malformed_environment_in_an_image_is_refused(word: str) -> None:
    with pytest.raises(Invalid):
        environment((word,), ())


def test_more_than_the_kernel_takes_is_refused() -> None:
    with pytest.raises(Invalid, match="limit"):
        environment((), tuple(f"V{number}={'x' * 100_000}" for number in range(70)))


@pytest.mark.parametrize("word", ["a\0b", "\udc80"])
def test_a_command_that_no_runtime_can_be_given_is_refused(word: str) -> None:
    for request in (ProcessRequest(cmd=("sh", word)), ProcessRequest(entrypoint=(word,))):
        with pytest.raises(Invalid) as caught:
            merge(ImageProcess(), request)
        assert caught.value.field == "command"


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/a/./b/../c/", "/a/c"),
        ("//srv//app", "/srv/app"),
        ("/..", "/"),
        ("/process", "/process"),
        ("/devel/x", "/devel/x"),
        ("/proc/../srv", "/srv"),
    ],
)
def test_working_dir_is_normalised(path: str, normal: str) -> None:
    assert working_dir(path) == normal


@pytest.mark.parametrize(
    "path",
    [
        "app",
        "./x",
        "..",
        " /x",
        "/x\0",
        "/\udcff",
        "/proc",
        "/proc/self/fd/9",
        "//proc/self/fd/7",
        "/./proc/1/cwd",
        "/srv/../proc/self/fd/3",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/fd/8",
        "/dev/",
    ],
)
def test_a_working_dir_outside_the_images_own_files_is_refused(path: str) -> None:
    for image, request in (
        (ImageProcess(cmd=("x",), working_dir=path), ProcessRequest()),
        (ImageProcess(cmd=("x",)), ProcessRequest(working_dir=path)),
    ):
        with pytest.raises(Invalid) as caught:
            merge(image, request)
        assert caught.value.field == "working_dir"


def test_request_wins_for_working_dir_and_user() -> None:
    image = ImageProcess(cmd=("x",), working_dir="/image", user="app")
    assert (merge(image, ProcessRequest()).cwd, merge(image, ProcessRequest()).user) == ("/image", "app")
    asked = merge(image, ProcessRequest(working_dir="/asked", user="0"))
    assert (asked.cwd, asked.user) == ("/asked", "0")
    silent = merge(image, ProcessRequest(working_dir="", user=""))
    assert (silent.cwd, silent.user) == ("/image", "app")


@pytest.mark.parametrize("hostname", ["a b", "a\nb", "a\0", "é", "x" * 65, "a/b", "a\n"])
def test_a_hostname_that_could_forge_a_line_is_refused(hostname: str) -> None:
    with pytest.raises(Invalid) as caught:
        environment((), (), hostname=hostname)
    assert caught.value.field == "hostname"


def test_home_is_added_only_where_none_is() -> None:
    assert with_home(("A=1",), "/root") == ("A=1", "HOME=/root")
    assert with_home(("HOME=/mine",), "/root") == ("HOME=/mine",)
    assert with_home(("HOME=", "A=1"), "/root") == ("A=1", "HOME=/root")


def test_an_image_config_is_read_by_its_types() -> None:
    config = {
        "Entrypoint": ["tini", "--"],
        "Cmd": None,
        "Env": ["A=1"],
        "WorkingDir": "/srv",
        "User": "app",
        "Labels": {"run.oci.handler": "krun"},
    }
    assert ImageProcess.from_config(config) == ImageProcess(
        entrypoint=("tini", "--"), env=("A=1",), working_dir="/srv", user="app"
    )
    assert ImageProcess.from_config({}) == ImageProcess()
    assert ImageProcess.from_config({"Cmd": "/bin/app"}).cmd == ("/bin/app",)


@pytest.mark.parametrize(
    "config",
    [{"Cmd": [1]}, {"Cmd": {"a": 1}}, {"Env": "A=1"}, {"Env": [None]}, {"User": 0}, {"WorkingDir": ["/"]}],
)
def test_an_image_config_of_other_types_is_invalid(config: dict[str, object]) -> None:
    with pytest.raises(ImageInvalid):
        ImageProcess.from_config(config)
