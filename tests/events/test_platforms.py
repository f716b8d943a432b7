"""Platforms: names in normal form, and what a machine can run."""

from __future__ import annotations

import pytest

from lading.events.errors import Invalid
from lading.events.platforms import Platform, normal_platform, parse_platform, suitable


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/X86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("macos/arm64", "darwin/arm64"),
        ("arm64", "linux/arm64"),
        ("aarch64", "linux/arm64"),
        ("riscv64", "linux/riscv64"),
        ("linux/made_up", "linux/made_up"),
    ],
)
def test_each_platform_has_one_name(text: str, normal: str) -> None:
    assert str(parse_platform(text)) == normal
    assert parse_platform(normal) == parse_platform(text)


def test_a_system_alone_takes_the_hosts_architecture() -> None:
    assert parse_platform("linux", architecture="x86_64") == Platform("linux", "amd64")
    with pytest.raises(Invalid, match="architecture"):
        parse_platform("linux")


@pytest.mark.parametrize(
    "text",
    ["", "/", "linux/", "/amd64", "linux/amd64/v2/x", "linux/amd64\n", "linux/*", "linux/ä", "made-up", "a b"],
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_platform(text)


@pytest.mark.parametrize(
    ("machine", "can_run"),
    [
        ("linux/amd64", ["amd64", "386"]),
        ("linux/amd64/v3", ["amd64/v3", "amd64/v2", "amd64", "386"]),
        ("linux/386", ["386"]),
        ("linux/arm", ["arm/v7", "arm/v6", "arm/v5"]),
        ("linux/arm/v5", ["arm/v5"]),
        ("linux/arm64", ["arm64", "arm/v8", "arm/v7", "arm/v6", "arm/v5"]),
        ("linux/arm64/v8.1", ["arm64/v8.1", "arm64", "arm/v8", "arm/v7", "arm/v6", "arm/v5"]),
        ("linux/riscv64", ["riscv64"]),
    ],
)
def test_a_machine_runs_what_its_predecessors_ran(machine: str, can_run: list[str]) -> None:
    assert [str(each) for each in suitable(parse_platform(machine))] == [f"linux/{each}" for each in can_run]


def test_a_new_arm64_runs_the_old_ones_code() -> None:
    found = [str(each) for each in suitable(parse_platform("linux/arm64/v9.1"))]
    assert found[:3] == ["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6"]
    assert found[-5:] == ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]


def test_a_variant_that_nobody_knows_is_only_itself() -> None:
    for platform in (Platform("linux", "amd64", "v٣"), Platform("linux", "amd64", "v99999999")):
        assert suitable(platform)[0] == normal_platform(platform)
        assert len(suitable(platform)) == 2
